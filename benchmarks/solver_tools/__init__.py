"""Other libraries' solvers of (G + λI) x = v, one file each; see solver_peers.py."""
