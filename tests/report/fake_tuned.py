"""A stage for tests: hands its model on as if it had learnt from the tasks."""

import shutil

from puna.core.settings import Settings as BaseSettings

KIND = "model"
REVISION = 1


class Settings(BaseSettings):
    """`adapter`: leave adapters beside the weights."""

    adapter: bool = False


def run(settings, ctx):
    """Copy the weights."""
    for path in ctx.inputs.one("model").path.glob("*"):
        if path.name not in ("artifact.json", "lineage.json", "summary.json") and path.is_file():
            shutil.copyfile(path, ctx.out / path.name)
    if settings.adapter:
        (ctx.out / "adapter").mkdir()
        shutil.copyfile(ctx.out / "model.safetensors", ctx.out / "adapter" / "adapter_model.safetensors")
