"""Networks that are wrapped: which can be looked into, and which are refused by name."""

import sys
from typing import Any, NamedTuple

from torch import nn


class _Wrapper(NamedTuple):
    """What is known about a class that is put around a network.

    Args:
        advice: what to do instead of giving it.
        inner: the attribute that is the network itself, with the same tensors; None if none is.
    """

    advice: str
    inner: str | None = None


def _average(inner: str) -> _Wrapper:
    advice = f"change the network that it averages, and average anew; the average is model.{inner}"
    return _Wrapper(advice, inner)


_FABRIC = _Wrapper("take the network inside, model.module, and set it up afterwards", "module")
_ADAPTED = _Wrapper(
    "its adapters are not in the weights of its layers: take what PEFT's merge_and_unload() "
    "returns, of a copy.deepcopy while you train on, as it merges in place"
)

# By module and name: a class is looked up only where its module is imported already.
_WRAPPERS: dict[tuple[str, str], _Wrapper] = {
    ("torch._dynamo.eval_frame", "OptimizedModule"): _Wrapper(
        "take the network inside, model._orig_mod, and compile it afterwards", "_orig_mod"
    ),
    ("torch.nn", "DataParallel"): _Wrapper(
        "take the network inside, model.module, and wrap it afterwards", "module"
    ),
    ("torch.nn.parallel", "DistributedDataParallel"): _Wrapper(
        "take the network inside, model.module, and wrap it afterwards", "module"
    ),
    ("torch.optim.swa_utils", "AveragedModel"): _average("module"),
    ("lightning.fabric.wrappers", "_FabricModule"): _FABRIC,
    ("lightning_fabric.wrappers", "_FabricModule"): _FABRIC,
    ("timm.utils.model_ema", "ModelEma"): _average("ema"),
    ("timm.utils.model_ema", "ModelEmaV2"): _average("module"),
    ("timm.utils.model_ema", "ModelEmaV3"): _average("module"),
    ("torch.jit", "ScriptModule"): _Wrapper("take the network that was scripted or traced"),
    ("torch.export", "ExportedProgram"): _Wrapper("take the network that was exported"),
    ("torch.export._unlift", "_StatefulGraphModule"): _Wrapper(
        "it was exported: take the network that was exported"
    ),
    ("torch.distributed.fsdp", "FullyShardedDataParallel"): _Wrapper(
        "its tensors are spread over processes: take the network before it was wrapped"
    ),
    ("torch.distributed.fsdp", "FSDPModule"): _Wrapper(
        "its tensors are spread over processes: take the network before fully_shard"
    ),
    ("peft.peft_model", "PeftModel"): _ADAPTED,
    ("peft.mixed_model", "PeftMixedModel"): _ADAPTED,
    ("peft.tuners.tuners_utils", "BaseTunerLayer"): _ADAPTED,
    ("peft.utils.other", "AuxiliaryTrainingWrapper"): _ADAPTED,
}


def unwrap(model: nn.Module, caller: str) -> nn.Module:
    """The network that is to be read: the one inside a wrapper that has the same tensors.

    Args:
        model: a network, or a wrapper around one.
        caller: the public function, for errors.

    Raises:
        TypeError: no network; one that is recorded code, or whose tensors other processes have;
            or one of which a part is wrapped, whose names are then not the network's own.
    """
    known = _imported()
    while (wrapper := _wrapper(model, known)) is not None and wrapper.inner is not None:
        model = getattr(model, wrapper.inner)
    _refuse(model, f"{caller} cannot read a", known)
    return model


def check_unwrapped(model: nn.Module, caller: str) -> None:
    """Raise TypeError unless a network can be changed; wrappers remember what they were given.

    Hooks of accelerate do too: they hold the weights of layers that are offloaded.

    Args:
        model: the network.
        caller: the public function, for errors.
    """
    _refuse(model, f"{caller} cannot change a", _imported())
    if any(hasattr(part, "_hf_hook") for part in model.modules()):
        raise TypeError(
            f"{caller} cannot change a network with hooks of accelerate, which offload or dispatch "
            "it: take them off with accelerate.hooks.remove_hook_from_module(model, recurse=True), "
            "change the network, and offload or dispatch it again"
        )


def check_changeable(model: nn.Module, caller: str) -> None:
    """Raise TypeError unless the modules of a network can be changed.

    Args:
        model: the network.
        caller: the public function, for errors.
    """
    check_unwrapped(model, caller)
    stub = getattr(sys.modules.get("torch.ao.quantization"), "QuantStub", ())
    for part in model.modules():
        if getattr(part, "_compiled_call_impl", None) is not None:
            raise TypeError(
                f"{caller} cannot change a network after model.compile(): change, then compile"
            )
        if "skip_mul" in part._modules or isinstance(part, stub):
            raise TypeError(
                f"{caller} cannot change a quantizable network (with {type(part).__name__}): "
                "change the float network of torchvision.models, then quantize it"
            )


def _imported() -> dict[type, _Wrapper]:
    return {
        getattr(sys.modules[module], name): wrapper
        for (module, name), wrapper in _WRAPPERS.items()
        if hasattr(sys.modules.get(module), name)
    }


def _wrapper(part: Any, known: dict[type, _Wrapper]) -> _Wrapper | None:
    return next((wrapper for cls, wrapper in known.items() if isinstance(part, cls)), None)


def _refuse(model: Any, problem: str, known: dict[type, _Wrapper]) -> None:
    for name, part in model.named_modules() if isinstance(model, nn.Module) else [("", model)]:
        for cls, wrapper in known.items():
            if isinstance(part, cls):
                place = f" (its {name!r})" if name else ""
                advice = wrapper.advice.replace("model.", f"model.{name}." if name else "model.")
                raise TypeError(f"{problem} {cls.__name__}{place}: {advice}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")
