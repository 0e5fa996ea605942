"""The steps of the demo as ordinary commands: corpus, training, plan, slim, refit, fine-tuning, figures."""

from dataclasses import dataclass
from pathlib import Path

from nmtprune.demo.datasets import GENERATED, ParallelCorpus, ParallelSet
from nmtprune.demo.recipe import Recipe
from nmtprune.errors import DataError, EngineError, TrainingError
from nmtprune.process import Command, program, python, shown
from nmtprune.training.bar import TrainingWatcher, watch_translation
from nmtprune.user_dir import USER_DIR

MODELS = {
    "before": "before",
    "slim": "slim",
    "refitted": "slim + refit",
    "finetuned": "slim + refit + fine-tuned",
}
"""The models that are compared, by the names of their files and of their rows in the table."""

HELD_OUT = 500
"""Validation sentences of the generated corpus."""

TESTED = 600
"""Test sentences of the generated corpus."""

CALIBRATION = 1_000
"""Training sentences on which heads are ranked and the slim model is fitted."""


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does.

    Attributes:
        folder: where everything is written.
        corpus: the real corpus; for the generated one, the files that the first step will write.
        sentences: training sentences to generate; None for a real corpus.
        recipe: model and training.
        remove: heads to remove, as ``nmtprune greedy --until`` takes it.
        seed: of corpus, training and calibration.
        beam: hypotheses that fairseq-generate keeps.
        max_minutes: training ends after these, training and fine-tuning together after a quarter more; None for no
            limit.
    """

    folder: Path
    corpus: ParallelCorpus
    sentences: int | None
    recipe: Recipe
    remove: str
    seed: int
    beam: int
    max_minutes: float | None

    @property
    def languages(self) -> str:
        """Source and target language joined by a hyphen."""
        return "-".join(self.corpus.languages)

    def checkpoint(self, model: str) -> Path:
        """File of one of MODELS."""
        name = {
            "before": "trained/checkpoint_best.pt",
            "slim": "slim.pt",
            "refitted": "refitted.pt",
            "finetuned": "finetuned/checkpoint_best.pt",
        }
        return self.folder / name[model]

    def inspected(self, model: str) -> Path:
        """Where `nmtprune inspect` writes what it finds."""
        return self.folder / f"{model}.json"

    def table(self, command: str) -> Path:
        """Where the table of a command of nmtprune goes."""
        return self.folder / f"{command}.txt"

    def translated(self, model: str, test: ParallelSet, suffix: str) -> Path:
        """Files of the translation of a test set: ``generate``, ``hypotheses``, ``bleu``."""
        return self.folder / f"{model}.{test.name}.{suffix}"


def generated_corpus(folder: Path) -> ParallelCorpus:
    """The files that `corpus_step` writes into a run folder."""
    sets = [
        ParallelSet(name, *(folder / "corpus" / f"{name}.{language}" for language in GENERATED))
        for name in ("train", "val", "test")
    ]
    return ParallelCorpus(("src", "tgt"), sets[0], sets[1], (sets[2],))


def all_steps(settings: DemoSettings) -> list[Command]:
    """Everything, in order."""
    steps = [corpus_step(settings)] if settings.sentences is not None else []
    steps += [vocabulary_step(settings), pieces_step(settings), binarize_step(settings), train_step(settings)]
    steps += evaluation_steps(settings, "before")
    steps += [greedy_step(settings), slim_step(settings), *evaluation_steps(settings, "slim")]
    steps += [refit_step(settings), *evaluation_steps(settings, "refitted")]
    steps += [fine_tune_step(settings), *evaluation_steps(settings, "finetuned")]
    return [*steps, heads_step(settings), bench_step(settings)]


def corpus_step(settings: DemoSettings) -> Command:
    """Generate the corpus."""
    sizes = {"train": settings.sentences, "val": HELD_OUT, "test": TESTED}
    options = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    folder = settings.corpus.train.source.parent
    command = (*python("nmtprune.demo.corpus"), shown(folder), "--seed", str(settings.seed), *options)
    return Command("corpus", "Generate a parallel corpus", command)


def vocabulary_step(settings: DemoSettings) -> Command:
    """Learn the SentencePiece vocabulary."""
    command = (*python("nmtprune.demo.subwords"), "learn", *_data(settings))
    options = ("--max-size", str(settings.recipe.vocabulary), "-o", shown(settings.folder / "spm.model"))
    return Command("vocabulary", "Learn a SentencePiece vocabulary for both languages", (*command, *options))


def pieces_step(settings: DemoSettings) -> Command:
    """Split all sets into pieces."""
    command = (*python("nmtprune.demo.subwords"), "encode", *_data(settings))
    options = ("--model", shown(settings.folder / "spm.model"), "-o", shown(settings.folder / "pieces"))
    return Command("pieces", "Split the sentences into pieces", (*command, *options))


def binarize_step(settings: DemoSettings) -> Command:
    """Binarize with fairseq-preprocess."""
    pieces = settings.folder / "pieces"
    source, target = settings.corpus.languages
    tests = ",".join(shown(pieces / test.name) for test in settings.corpus.tests)
    command = (
        *(program("fairseq-preprocess"), "--source-lang", source, "--target-lang", target),
        *("--trainpref", shown(pieces / "train"), "--validpref", shown(pieces / "val"), "--testpref", tests),
        *("--joined-dictionary", "--destdir", shown(settings.folder / "data-bin")),
    )
    return Command("binarize", "Binarize them for fairseq", command, error=DataError)


def train_step(settings: DemoSettings) -> Command:
    """Train the transformer."""
    recipe = settings.recipe
    command = (*_fairseq_train(settings, "trained", 1.0), *recipe.model_options(), *recipe.training_options())
    title = f"Train a transformer: {recipe.layers} + {recipe.layers} layers of {recipe.heads} heads"
    return Command("train", title, command, watch=TrainingWatcher(recipe.updates, recipe.epochs), error=TrainingError)


def greedy_step(settings: DemoSettings) -> Command:
    """Choose the heads, step by step."""
    command = (
        *(program("nmtprune"), "greedy", shown(settings.checkpoint("before")), *_nmtprune_data(settings, "valid")),
        *("--order", "reconstruction", "--refit", "--step", "25%", "--until", settings.remove),
        *("--rounds", "4", *_calibration("--importance-sentences", "--calibration-sentences")),
        *("--seed", str(settings.seed), "-o", shown(settings.folder / "greedy")),
    )
    title = f"Choose {settings.remove} of the heads: those whose work the others can take over"
    return Command("greedy", title, command, stdout=settings.table("greedy"))


def slim_step(settings: DemoSettings) -> Command:
    """Cut the heads, verified."""
    command = (
        *(program("nmtprune"), "slim", shown(settings.checkpoint("before"))),
        *("--plan", shown(settings.folder / "greedy" / "plan.json"), "-o", shown(settings.checkpoint("slim"))),
    )
    return Command("slim", "Cut them out of the checkpoint, and verify that nothing else changed", command)


def refit_step(settings: DemoSettings) -> Command:
    """Fit the slim model to the full one, without training."""
    command = (
        *(program("nmtprune"), "refit", shown(settings.checkpoint("before")), shown(settings.checkpoint("slim"))),
        *("--data-bin", shown(settings.folder / "data-bin"), *_calibration("--calibration-sentences")),
        *("--device", "cpu", "--threads", "1", "--seed", str(settings.seed)),
        *("-o", shown(settings.checkpoint("refitted"))),
    )
    return Command("refit", "Fit the heads that are left to follow the full model, without training", command)


def fine_tune_step(settings: DemoSettings) -> Command:
    """Fine-tune the refitted model."""
    recipe = settings.recipe
    command = (
        *_fairseq_train(settings, "finetuned", 1.25),
        *("--arch", "nmtprune", "--finetune-from-model", shown(settings.checkpoint("refitted"))),
        *recipe.fine_tuning_options(),
    )
    watch = TrainingWatcher(recipe.fine_tune_updates, recipe.fine_tune_epochs)
    return Command("fine-tune", "Fine-tune the refitted model for a moment", command, watch=watch, error=TrainingError)


def evaluation_steps(settings: DemoSettings, model: str) -> list[Command]:
    """Inspect a model, translate every test set with it and score the translations."""
    steps = [inspect_step(settings, model)]
    for number, test in enumerate(settings.corpus.tests):
        steps.append(translate_step(settings, model, test, f"test{number or ''}"))
        steps += [hypotheses_step(settings, model, test), score_step(settings, model, test)]
    return steps


def inspect_step(settings: DemoSettings, model: str) -> Command:
    """Count heads, parameters and bytes."""
    command = (program("nmtprune"), "inspect", shown(settings.checkpoint(model)), "--format", "json")
    return Command(
        f"inspect-{model}", f"Look into the model: {MODELS[model]}", command, stdout=settings.inspected(model)
    )


def translate_step(settings: DemoSettings, model: str, test: ParallelSet, subset: str) -> Command:
    """Translate a test set with stock fairseq-generate; without the batch size multiple it leaves sentences out."""
    command = (
        *(program("fairseq-generate"), shown(settings.folder / "data-bin"), "--user-dir", shown(USER_DIR)),
        *("--path", shown(settings.checkpoint(model)), "--gen-subset", subset, "--beam", str(settings.beam)),
        *("--max-tokens", str(4_000), "--required-batch-size-multiple", "1", "--remove-bpe", "sentencepiece"),
        *("--max-len-a", "1.5", "--max-len-b", "20", "--cpu"),
        *("--log-format", "simple", "--log-interval", "1"),
    )
    name, title = f"translate-{model}-{test.name}", f"Translate {test.name}: {MODELS[model]}"
    stdout = settings.translated(model, test, "generate")
    return Command(name, title, command, stdout=stdout, watch=watch_translation, error=EngineError)


def hypotheses_step(settings: DemoSettings, model: str, test: ParallelSet) -> Command:
    """Put the translations in order."""
    generated, output = (settings.translated(model, test, suffix) for suffix in ("generate", "hypotheses"))
    command = (*python("nmtprune.demo.hypotheses"), shown(generated), "-o", shown(output))
    return Command(f"hypotheses-{model}-{test.name}", "Take the translations out of its output", command)


def score_step(settings: DemoSettings, model: str, test: ParallelSet) -> Command:
    """Score them with sacrebleu on plain text."""
    hypotheses, bleu = (settings.translated(model, test, suffix) for suffix in ("hypotheses", "bleu"))
    command = (program("sacrebleu"), shown(test.target), "-i", shown(hypotheses), "-m", "bleu", "-w", "4")
    return Command(f"bleu-{model}-{test.name}", "Score them", command, stdout=bleu, error=DataError)


def heads_step(settings: DemoSettings) -> Command:
    """What each head of the full model is worth."""
    command = (
        *(program("nmtprune"), "score", shown(settings.checkpoint("before")), *_nmtprune_data(settings, "valid")),
        *("-o", shown(settings.folder / "scores.json")),
    )
    return Command(
        "score", "Mask each head in turn, and test what that changes", command, stdout=settings.table("scores")
    )


def bench_step(settings: DemoSettings) -> Command:
    """How fast the full model and the fine-tuned slim one are, in turns."""
    compared = (shown(settings.checkpoint(model)) for model in ("before", "finetuned"))
    command = (
        *(program("nmtprune"), "bench", *compared, *_nmtprune_data(settings, "test")),
        *("--batch-size", "16", "--repeat", "2", "-o", shown(settings.folder / "bench.json")),
    )
    return Command("bench", "Time the models side by side", command, stdout=settings.table("bench"))


def _nmtprune_data(settings: DemoSettings, subset: str) -> tuple[str, ...]:
    """Sentences and search of nmtprune's own commands: greedy, on one thread."""
    data = ("--data-bin", shown(settings.folder / "data-bin"), "--subset", subset)
    return (*data, "--beam", "1", "--max-len-a", "1.5", "--max-len-b", "20", "--device", "cpu", "--threads", "1")


def _calibration(*options: str) -> tuple[str, ...]:
    """Each of these options with the number of training sentences that orders and refit take."""
    return tuple(word for option in options for word in (option, str(CALIBRATION)))


def _data(settings: DemoSettings) -> tuple[str, ...]:
    return (shown(settings.corpus.train.source.parent), "--languages", settings.languages)


def _fairseq_train(settings: DemoSettings, save_dir: str, share: float) -> tuple[str, ...]:
    """What training and fine-tuning have in common.

    fairseq counts the training time that a checkpoint remembers, also when it fine-tunes it: `share` is of the sum.
    """
    limit = () if settings.max_minutes is None else ("--stop-time-hours", f"{settings.max_minutes * share / 60:.4f}")
    return (
        *(program("fairseq-train"), shown(settings.folder / "data-bin"), "--user-dir", shown(USER_DIR)),
        *("--save-dir", shown(settings.folder / save_dir), "--no-epoch-checkpoints", "--seed", str(settings.seed)),
        *("--required-batch-size-multiple", "1", "--num-workers", "0", "--cpu"),
        *("--log-format", "simple", "--log-interval", "20", *limit),
    )
