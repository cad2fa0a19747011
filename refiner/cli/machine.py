"""The options ``--device``, ``--dtype`` and ``--offload``, which several sub-commands share."""

from __future__ import annotations

import argparse
from typing import get_args

from refiner import machine
from refiner.errors import ConfigError
from refiner.machine import DTYPES, Machine, Offload


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device", metavar="NAME", help="cuda, cuda:1, mps or cpu (the first of cuda, mps and cpu that is there)"
    )


def add_machine(parser: argparse.ArgumentParser, *, pipeline: bool, offload: bool = True) -> None:
    """Add the options as a group.

    Args:
        parser: of the sub-command.
        pipeline: whether it loads a pipeline of diffusers, which ``--dtype`` and ``--offload`` are for.
        offload: False: without ``--offload``, although it loads a pipeline.
    """
    group = parser.add_argument_group("machine")
    add_device(group)
    own = "bfloat16 or float16 on a GPU, float32 on a CPU" if pipeline else "that of the weights; float32 on a CPU"
    what = "pipelines" if pipeline else "the detector"
    group.add_argument("--dtype", choices=DTYPES, help=f"precision of {what} ({own})")
    if pipeline and offload:
        group.add_argument(
            "--offload",
            choices=get_args(Offload),
            default="none",
            help="keep weights in main memory until they are used, to save GPU memory (none)",
        )


def machine_of(args: argparse.Namespace) -> Machine:
    """Return the machine that the options name, without loading a model.

    Raises:
        ConfigError: this machine has no such device, or there is no GPU to offload from.
    """
    check_device(args.device)
    offload: Offload = getattr(args, "offload", "none")
    try:
        return Machine.choose(args.device, getattr(args, "dtype", None), offload)
    except ConfigError as error:
        raise _named(f"--offload {offload}", error) from error


def check_machine(args: argparse.Namespace) -> None:
    """Raise ConfigError where ``machine_of`` would; torch is imported only if the answer depends on the GPU."""
    if getattr(args, "offload", "none") == "none":
        check_device(args.device)
    else:
        machine_of(args)


def check_device(name: str | None) -> None:
    """Raise ConfigError if this machine does not have the device of ``--device``; None: the default."""
    try:
        machine.check_device(name)
    except ConfigError as error:
        raise _named(f"--device {name}", error) from error


def _named(option: str, error: ConfigError) -> ConfigError:
    text = str(error)
    return ConfigError(f"{option}: {text[0].lower()}{text[1:]}")
