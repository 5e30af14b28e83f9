"""Which mode runs a model: the fastest whose embeddings stay close enough to float32.

What is known of the modes is looked up, what is not is measured (see trial.py) and kept (see profile.py). From
that the choice is made anew at every start, by the bounds and the modes that are asked for then: of those whose cosines
with the eager float32 embeddings reach both bounds, the one with the most images a second.

Equals are told apart by their order (see mode.py), not by noise: a mode gives way to an earlier one that is as fast
within 15 %. Equals, measured eight times on a busy machine, came out up to 10 % apart.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from regard_models import ModelBundle
from regard_server.engine.mode import EAGER, Mode, candidates
from regard_server.engine.options import EngineOptions
from regard_server.engine.profile import Measurement, Profile, Profiles, profile_key
from regard_server.engine.reading import device_kind
from regard_server.engine.runner import Runner
from regard_server.engine.trial import PATIENT_S, QUICK_S, measure

_AS_FAST = 1.15


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode that runs a model, and what is known of all of them."""

    mode: Mode
    profile: Profile


def find_choice(
    bundle: ModelBundle,
    device: torch.device,
    options: EngineOptions,
    build: Callable[[Mode], Runner],
    *,
    profiles: Profiles,
    logger: logging.Logger,
    again: bool = False,
) -> Choice:
    """Return the mode of a network: the only one there is, or one that is chosen by what was measured.

    Modes that were not measured yet are, but for compiled ones: these take part where "auto" is asked for and they
    were measured before.

    Args:
        bundle: the network.
        device: where it runs.
        options: what was asked for.
        build: makes a mode's runner.
        profiles: what was measured, and where it is kept.
        logger: where modes that cannot run the network are told of.
        again: whether to measure all of them now, compiled ones too, and patiently.

    Raises:
        ValueError: no mode fits the options on this machine.
    """
    everyone = candidates(device.type, engine=options.engine, dtype=options.dtype, compiled=True)
    quick = candidates(device.type, engine=options.engine, dtype=options.dtype)
    if not everyone:
        raise ValueError(
            f"engine {options.engine!r} in {options.dtype} cannot run on {device} here; "
            "is the package or the compiler that it needs installed?"
        )

    def eligible(profile: Profile) -> list[Mode]:
        return [mode for mode in everyone if mode in quick or profile.of(mode)]

    def unknown(profile: Profile) -> list[Mode]:
        modes = eligible(profile)
        return [mode for mode in modes if not profile.knows(mode)] if len(modes) > 1 else []

    key = profile_key(
        bundle, device=device_kind(device), threads=options.threads, max_batch=options.max_batch
    )
    profile = profiles.find(key)
    if again or unknown(profile):
        with profiles.turn(key):
            profile = profiles.find(key)  # by now another device or replica may have measured
            if wanted := everyone if again else unknown(profile):
                timed_s = PATIENT_S if again else QUICK_S
                profile = profile.joined(
                    measure(
                        bundle, wanted, build, max_batch=options.max_batch, logger=logger, timed_s=timed_s
                    )
                )
                profiles.keep(key, profile)
    modes = eligible(profile)
    return Choice(modes[0] if len(modes) == 1 else choose(modes, profile, options), profile)


def choose(modes: Sequence[Mode], profile: Profile, options: EngineOptions) -> Mode:
    """Return the fastest mode that is close enough; eager float32 where none is.

    Of modes that are as fast within noise it is the first. Where every image runs alone, speed is that of one.
    """

    def speed(each: Measurement) -> float:
        return 1 / each.alone_s if options.invariant else each.images_per_s

    bounds = options.bounds
    close = [
        each
        for mode in modes
        if (each := profile.of(mode))
        and each.cosine_mean >= bounds.mean
        and each.cosine_worst >= bounds.worst
    ]
    fastest = max(map(speed, close), default=0.0)
    return next((each.mode for each in close if speed(each) * _AS_FAST >= fastest), EAGER)
