"""The command `influence`, one thin file per command, and the job that joins the rooms below."""


def main() -> None:
    """Run the command with this process's arguments and end the process with its exit code."""
    from influence.cli.app import command

    raise SystemExit(command())
