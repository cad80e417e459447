"""One file per tool: the same three stages, each tool's own way of doing them."""
