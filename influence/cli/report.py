"""`influence report`: the page of a finished run, written again from what is stored."""


def report(run: str) -> None:
    """Write the report of a run again. No model is opened and nothing is fetched.

    Args:
        run: Directory of a run that `influence run` or `influence score` finished.
    """
    from influence.cli import job

    print(job.write_again(run))
