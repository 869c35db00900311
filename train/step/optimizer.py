"""The optimizer: the whole schedule is its learning-rate tensor, from which its kernel takes ``lr[t]`` itself.

An optimizer of a user's own is a function, or one of MindSpore's classes, that ``optimizer.name`` refers to::

    def make(params, learning_rate, **options) -> nn.Optimizer

``params`` is a list of groups, ``{"params": [Parameter, …], "weight_decay": float}`` and perhaps ``"lr"``, which every
``nn.Optimizer`` takes as it is; ``learning_rate`` a float32 tensor (T,), the rate of every update; ``options`` are
``optimizer.options`` of the recipe. So ``mindspore.nn:RMSProp`` needs no file at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from train.runtime.errors import UserError, near_matches
from train.runtime.keys import import_from, is_reference, load_part, load_reference, match_names
from train.step.options import OPTIMIZERS, WITH_MOMENTUM, ParameterGroup
from train.step.update_rules import Momentum

OPTIMIZER = "optimizer."
"""Begins the name of every parameter that belongs to the optimizer and not to the model."""


OURS = ("params", "learning_rate", "momentum")
"""What an optimizer of ours takes besides ``optimizer.options``."""
REST = ParameterGroup(params=["*"])
"""Parameters that no group has."""


def freeze(model: nn.Cell, groups: Sequence[ParameterGroup]) -> None:
    """Take the parameters of frozen groups out of training, in place.

    A BatchNorm whose gamma and beta are frozen normalises by its moving statistics, and leaves these as they are.

    Raises:
        UserError: for a pattern that matches no parameter, or when nothing is left to train.
    """
    names = [p.name for p in model.trainable_params()]
    for group in groups:
        match_names(group.params, names, "optimizer.groups")
    for parameter in model.trainable_params():
        parameter.requires_grad = not group_of(parameter.name, groups).frozen
    if not model.trainable_params():
        raise UserError("optimizer.groups: every parameter is frozen; leave some to train")
    if all(group_of(p.name, groups).lr_scale != 1.0 for p in model.trainable_params()):
        raise UserError("optimizer.groups: each parameter has an lr_scale; give one group 1.0, the schedule's own rate")
    if any(group.frozen for group in groups):
        for _, cell in model.cells_and_names():
            if hasattr(cell, "moving_mean") and not any(p.requires_grad for p in (cell.gamma, cell.beta)):
                cell.use_batch_statistics = False


def group_of(name: str, groups: Sequence[ParameterGroup]) -> ParameterGroup:
    """Return the first group with a glob that fits ``name``, else :data:`REST`."""
    return next((group for group in groups if any(fnmatchcase(name, glob) for glob in group.params)), REST)


def make_optimizer(
    model: nn.Cell,
    lr: np.ndarray,
    *,
    momentum: float,
    weight_decay: float,
    decay_norm_and_bias: bool,
    name: str = "momentum",
    options: Mapping[str, Any] | None = None,
    groups: Sequence[ParameterGroup] = (),
) -> nn.Optimizer:
    """Return the optimizer over the model's trainable parameters, with ``lr`` (float32, (T,)) as its learning rate.

    A group with an ``lr_scale`` has an array of its own, ``lr`` times that, rounded once to float32.

    Weight decay is left off BatchNorm's gamma and beta and off biases (all 1-D parameters) unless
    ``decay_norm_and_bias``: He et al. 2019, "Bag of Tricks for Image Classification", section 3.1.

    Raises:
        UserError: for options that the optimizer does not take, and for one that holds another learning rate.
    """
    parameters = model.trainable_params()
    chosen = [group_of(p.name, groups) for p in parameters]
    made = []
    for group in (REST, *groups):
        decay = weight_decay if group.weight_decay is None else group.weight_decay
        rate = {"lr": Tensor(rates_of(group, lr))} if group.lr_scale != 1.0 else {}
        mine = [p for p, found in zip(parameters, chosen, strict=True) if found is group]
        decayed = [p for p in mine if decay_norm_and_bias or p.ndim > 1]
        free = [p for p in mine if not decay_norm_and_bias and p.ndim <= 1]
        made += [{"params": decayed, "weight_decay": decay, **rate}, {"params": free, "weight_decay": 0.0, **rate}]
    # An optimizer of MindSpore takes up its parameters under their names, beside its own learning_rate, loss_scale and
    # so on: a model may use these names too, so its parameters have others while the optimizer is made.
    names = {id(p): p.name for p in parameters}
    for parameter in parameters:
        parameter.name = OPTIMIZER + parameter.name
    try:
        optimizer = _make(name, [group for group in made if group["params"]], Tensor(lr), momentum, options or {})
        for parameter in optimizer.get_parameters():
            parameter.name = names.get(id(parameter)) or OPTIMIZER + parameter.name.replace(OPTIMIZER, "", 1)
    finally:
        for parameter in parameters:
            parameter.name = names[id(parameter)]
    if is_reference(name):
        _check(name, optimizer, {id(p): rates_of(group, lr) for p, group in zip(parameters, chosen, strict=True)})
    return optimizer


def rates_of(group: ParameterGroup, lr: np.ndarray) -> np.ndarray:
    """Return the group's rate of every update, ``lr`` (float32) times its ``lr_scale``, rounded once."""
    return (lr.astype(np.float64) * group.lr_scale).astype(np.float32)


def _make(
    name: str, groups: list[dict[str, Any]], lr: Tensor, momentum: float, options: Mapping[str, Any]
) -> nn.Optimizer:
    given: dict[str, Any] = {"momentum": momentum, **options} if name in WITH_MOMENTUM else {**options}
    positional = [lr]
    if name in OPTIMIZERS:
        make = import_from(OPTIMIZERS[name])
        allowed = [key for key in inspect.signature(make).parameters if key not in OURS]
        if unknown := next((option for option in options if option not in allowed), None):
            words = near_matches(unknown, allowed) if allowed else f"{name} takes none"
            raise UserError(f"optimizer.options: unknown key {unknown}: {words}")
    else:
        make = load_reference(name, "optimizer.name")
        # Of some of MindSpore's own the second parameter is another, as Adagrad's `accum`; they show (*args, **kwargs).
        shown = list(inspect.signature(make).parameters) if callable(make) else []
        if "learning_rate" in shown or shown == ["args", "kwargs"]:
            given, positional = {"learning_rate": lr, **given}, []
        load_part(name, given, "optimizer.name", "params", *(["learning_rate"] if positional else []))
    try:
        return make(groups, *positional, **given)
    except (TypeError, ValueError) as error:
        if is_reference(name) and not name.startswith("mindspore."):
            raise  # a bug in the user's own file keeps its traceback
        words = " ".join(str(error).split())
        raise UserError(f"optimizer.name={name}: options={dict(options)}: {words}") from None


def _check(name: str, optimizer: object, expected: Mapping[int, np.ndarray]) -> None:
    """Raise a :class:`UserError` unless a user's optimizer is one, of the given parameters and learning rates."""
    if not isinstance(optimizer, nn.Optimizer):
        raise UserError(f"optimizer.name={name}: makes a {type(optimizer).__name__}, not a mindspore.nn.Optimizer")
    if {id(p) for p in optimizer.parameters} != expected.keys():
        raise UserError(f"optimizer.name={name}: makes an optimizer of other parameters than the params it was given")
    for parameter in optimizer.parameters:
        rate = optimizer.get_lr_parameter(parameter)
        if not isinstance(rate, Parameter) or not np.array_equal(rate.asnumpy(), expected[id(parameter)]):
            raise UserError(
                f"optimizer.name={name}: {parameter.name} has another learning rate than the schedule's; hand on "
                "params and learning_rate, which hold it, as they are"
            )


def learning_rates(optimizer: nn.Optimizer) -> dict[str, np.ndarray]:
    """Return the rate of every update, float32 (T,), as the optimizer's kernel reads it, by the parameter's name; as ""
    the rate of parameters without an ``lr_scale``, if there are any."""
    held = {p.name: optimizer.get_lr_parameter(p) for p in optimizer.parameters}
    shared = [rate for rate in held.values() if rate.name.endswith("learning_rate")]
    held |= {"": shared[0]} if shared else {}
    arrays = {id(rate): rate.asnumpy() for rate in held.values()}
    return {name: arrays[id(rate)] for name, rate in held.items()}


def velocities(optimizer: nn.Optimizer) -> dict[str, Parameter]:
    """Return each parameter's velocity v by the parameter's name, where the update is W -= lr·v; else nothing."""
    if type(optimizer) is not Momentum:
        return {}
    return {p.name: v for p, v in zip(optimizer.parameters, optimizer.moments, strict=True)}


def decays_beforehand(optimizer: nn.Optimizer) -> list[float]:
    """Return each parameter's weight decay where it may be added to many gradients at once; else nothing."""
    return [float(one.asnumpy()) for one in optimizer.weight_decay] if type(optimizer) is Momentum else []


def group_rates(optimizer: nn.Optimizer, groups: Sequence[ParameterGroup]) -> dict[str, int]:
    """Return the place in ``optimizer.get_lr()`` of the rate of each group with an ``lr_scale``, by the group's name;
    that of the schedule's own rate first, as ""; only "" where there is one rate."""
    found = [group_of(p.name, groups) for p in optimizer.parameters]
    titles = ["" if group.lr_scale == 1.0 else group.title for group in found]
    return {title: titles.index(title) for title in ["", *titles]}


def hyper_parameters(optimizer: nn.Optimizer) -> list[Parameter]:
    """Return the optimizer's parameters that hold its configuration and no state: the whole schedule is one of them."""
    rates = {id(optimizer.get_lr_parameter(parameter)) for parameter in optimizer.parameters}
    momentum = getattr(optimizer, "momentum", None)
    return [p for p in optimizer.get_parameters() if id(p) in rates or p is momentum]


def state_arrays(optimizer: nn.Optimizer, layers: Sequence[str]) -> dict[str, Parameter]:
    """Return the parameters that hold the optimizer's state of ``layers``, under their names in a snapshot.

    ``moment1.0`` is that of the first layer; ``beta1_power`` is one that all layers share.
    """
    no_state = {id(parameter) for parameter in (*hyper_parameters(optimizer), optimizer.global_step)}
    weights = sorted((parameter.name for parameter in optimizer.parameters), key=len, reverse=True)
    found = {}
    for parameter in optimizer.get_parameters():
        if parameter.name in weights or id(parameter) in no_state:
            continue
        name = parameter.name.removeprefix(OPTIMIZER)
        owner = next((weight for weight in weights if name.endswith(f".{weight}")), None)
        if owner in layers:
            found[f"{name.removesuffix(f'.{owner}')}.{layers.index(owner)}"] = parameter
        elif owner is None:
            found[name] = parameter
    return found
