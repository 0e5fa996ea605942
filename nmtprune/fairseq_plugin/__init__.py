"""nmtprune in fairseq: importing this package registers its architectures, tasks and criteria.

fairseq imports it through ``--user-dir``. It also lets torch load fairseq's checkpoints, stock ones too.

Raises:
    EngineError: fairseq is not installed.
"""

from nmtprune.errors import EngineError

try:
    import fairseq  # noqa: F401  # first of all: the modules below import parts of it
except ModuleNotFoundError as error:
    if error.name != "fairseq":
        raise
    raise EngineError("fairseq is not installed: pip install 'nmtprune[fairseq]'") from None

from nmtprune.fairseq_plugin import (
    criterion,
    framed_task,
    models,
    safe_globals,
    segment_models,
    segment_task,
    task,
)

models.register_architectures()
task.register_tasks()
framed_task.register_framed_task()
segment_models.register_segment_models()
segment_task.register_segment_task()
criterion.register_criteria()
safe_globals.register_safe_globals()
