"""`influence doctor`: what this machine has."""


def doctor() -> None:
    """Show versions, devices, memory and disk: what to send along with a question."""
    import os
    import platform
    import shutil
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from influence import __version__
    from influence.cli import show

    def found(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    names = ("torch", "transformers", "datasets", "xarray", "zarr", "altair", "peft", "kronfluence", "bergson")
    lines = [["influence", __version__], ["python", f"{platform.python_version()} on {platform.platform()}"]]
    lines += [[name, found(name)] for name in names]
    lines.append(["processors", f"{os.cpu_count()}, of which torch uses {torch.get_num_threads()}"])
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        lines.append([f"cuda:{number}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB"])
    if not torch.cuda.is_available():
        lines.append(["cuda", "none; everything runs on the CPU"])
    lines.append(["free disk here", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"])
    print(show.table(["what", "found"], lines))
    print("\nnext     influence demo")
