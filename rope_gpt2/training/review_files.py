"""The CSVs of a data module: which reviews are trained on, judged, and drawn from."""

from collections.abc import Mapping
from pathlib import Path

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import Example, ExampleFile, read_examples
from rope_gpt2.fewshot.splits import drop_same_texts, hold_out
from rope_gpt2.fewshot.sst2 import resolve_data, sst2_on_disk


class ReviewFiles:
    """Reads files as they are asked for, and parts the training file.

    Args:
        options: names of the files by their use: train, validation, test, predict, pool; None as in SentimentDataModule.
        holdout: how many reviews to hold out where there is no validation file.
        order_seed: of those held out.
        limit: of test and predict, and of validation, the first reviews only, this many; 0 for all.
        clean_html: remove HTML tags; None: in files that have them.
    """

    def __init__(self, options: Mapping[str, str | None], holdout: int, order_seed: int, limit: int, clean_html: bool | None) -> None:
        self.options, self.holdout, self.order_seed, self.limit, self.clean_html = options, holdout, order_seed, limit, clean_html
        self._files: dict[Path, list[Example]] = {}
        self._queries: dict[Path, ExampleFile] = {}

    def evaluated_files(self) -> list[Path]:
        """Files of reviews that no training text may hold."""
        train, validation, test = (self.options[name] for name in ("train", "validation", "test"))
        paths = [resolve_data(name, "validation") for name in (validation, test) if name is not None]
        if test is None:
            default = resolve_data("sst2", "validation") if train == "sst2" else sst2_on_disk("validation")
            paths += [default] if default is not None else []
        return paths

    def evaluated(self) -> list[Example]:
        """Their reviews."""
        return [example for path in self.evaluated_files() for example in self.read(str(path), "validation")[1]]

    def read(self, name: str, split: str) -> tuple[Path, list[Example]]:
        """The reviews of a file, or of a split of SST-2, and where they lie; each is read once."""
        path = resolve_data(name, split)
        if path not in self._files:
            self._files[path] = read_examples(path, self.clean_html)
        return path, self._files[path]

    def tests_on_training_file(self) -> bool:
        """Whether `test` is the training file itself, whose reviews are not left out of training."""
        train, test = self.options["train"], self.options["test"]
        return test is not None and resolve_data(test, "validation").resolve() == resolve_data(str(train), "train").resolve()

    def training_split(self) -> tuple[list[Example], list[Example]]:
        """Training examples and those held out (none with a validation CSV), without any text of an evaluated file."""
        train, validation = self.options["train"], self.options["validation"]
        train_path, examples = self.read(str(train), "train")
        held_out: list[Example] = []
        read = len(examples)
        for path in self.evaluated_files():
            if path.resolve() != train_path.resolve():
                examples = drop_same_texts(examples, self.read(str(path), "validation")[1])
            elif validation is not None and path == resolve_data(validation, "validation"):
                raise InputError(f"{path}: is both training and validation file; leave data.validation out, and reviews are held out")
        if read and not examples:
            raise InputError(f"{train_path}: each of its {read} reviews stands in an evaluated file as well; give data.train other reviews")
        if self.options["validation"] is None:
            examples, held_out = hold_out(examples, self.holdout, self.order_seed)
        return examples, held_out

    def of_prompts(self, stage: str, with_pool: bool) -> tuple[Path | None, "list[Example] | ExampleFile", Path | None, list[Example]]:
        """(query file, queries, pool file, pool); a file is None for a split of the training file, the pool is empty if not asked for."""
        options = self.options
        query_file: Path | None = None
        queries: list[Example] | ExampleFile
        pool: list[Example] = []  # where nothing is drawn from it
        pool_file: Path | None = None
        if stage in ("fit", "validate"):
            if options["validation"] is None:
                queries = self.training_split()[1]
            else:
                query_file, queries = self.read(options["validation"], "validation")
        else:
            name = (options["predict"] if stage == "predict" else None) or options["test"] or "sst2"
            query_file = resolve_data(name, "validation")
            if query_file not in self._queries:
                self._queries[query_file] = ExampleFile(query_file, self.clean_html, self.limit)
            queries = self._queries[query_file]
        if with_pool:
            if options["pool"] is not None:
                pool_file, pool = self.read(options["pool"], "train")
            else:
                pool = self.training_split()[0]
        return query_file, queries if isinstance(queries, ExampleFile) else queries[: self.limit or None], pool_file, pool
