"""Checked token ids, position tables computed from position ids, dropout, and the output head with its chunked loss."""

# B batch   T length   D hidden size   V vocabulary   N tokens (B * T, or those with a label)

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

# Logits held at once, in elements: about what stays in the last-level cache of a CPU, half a GiB of float32 elsewhere.
CHUNK_ELEMENTS = {"cpu": 1 << 21, "other": 1 << 27}
CHUNK_ROWS = 256  # at least: of fewer rows, products with a large vocabulary slow down
# Rows up to which a CPU multiplies a large float32 matrix faster from the left, see `few_rows_linear`.
FEW_ROWS = 8
FUSED_DEVICES = ("cuda",)  # where liger-kernel's loss is used if it is installed
# Under torch.compile the number of chunks must not depend on the data.
COMPILED_CHUNKS = 8


def on_eager_cpu(x: Tensor) -> bool:
    """Whether code runs on the CPU uncompiled, where looking at values costs no wait and breaks no graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def check_token_ids(ids: Tensor, vocab_size: int, *, name: str = "token ids", ignored: int | None = None) -> None:
    """Refuses ids outside the vocabulary, on the CPU in eager mode; on a GPU they end in a device assertion.

    Raises:
        ValueError: with the first such id and its place.
    """
    if not on_eager_cpu(ids):
        return
    wrong = (ids < 0) | (ids >= vocab_size)
    if ignored is not None:
        wrong &= ids != ignored
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(f"{name} must be in [0, vocab_size={vocab_size}); got {ids[place].item()} at {place}")


def position_ids_from_mask(mask_BT: Tensor) -> Tensor:
    """Numbers the tokens of each row from 0, skipping padding on either side; padding gets a number nobody reads."""
    return (mask_BT.long().cumsum(-1) - 1).clamp(min=0)


def sinusoids(position_ids: Tensor, size: int, *, layout: str = "interleaved", frequency: str = "paper") -> Tensor:
    """Sinusoidal position encodings, section 3.5 of Vaswani et al. (2017), for any position.

    PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(pos / 10000^(2i/D)), always in float32: a table cast to
    bfloat16 with the model errs by up to 0.66.

    Args:
        position_ids: positions of any shape.
        size: D, even.
        layout: "interleaved" as above; "half-split" has all sines, then all cosines (Marian, fairseq, tensor2tensor).
        frequency: "paper" as above; "tensor2tensor" has 10000^(-i/(D/2-1)) (the paper's code, fairseq, C++ Marian).

    Returns:
        Encodings in float32, shape of `position_ids` plus [D].
    """
    half = size // 2
    step = 2.0 / size if frequency == "paper" else 1.0 / max(half - 1, 1)
    exponents = torch.arange(half, dtype=torch.float32, device=position_ids.device) * step
    angles = position_ids.float().unsqueeze(-1) * torch.exp(exponents * -math.log(10000.0))
    if layout == "interleaved":
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, whose draw of one random number an element costs a CPU a sixth of a small step.

    In eager mode on the CPU one 64-bit draw serves four elements, 16 bits each: the rate is rounded to a multiple of
    2^-16, and the scale is that rate's. Everywhere else, torch's own.

    Args:
        x: any shape.
        rate: share of elements set to zero, in [0, 1); the others are multiplied by 1 / (1 - rate).
        training: False gives `x` itself.
    """
    if not training or rate == 0.0:
        return x
    if not on_eager_cpu(x):
        return nn.functional.dropout(x, rate, training=True)
    dropped = min(round(rate * 65536), 65535)
    draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 32768
    return _Kept.apply(x, kept, 65536 / (65536 - dropped))  # type: ignore[return-value]


@contextlib.contextmanager
def activation_recomputed(activation: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[Tensor]:
    """Gives activation(x); what is saved of it for the gradient inside is x, which the activation saves anyway.

    A quarter of what a layer of BERT keeps is the activation that its second feed-forward matrix is multiplied with; it
    is computed again instead, a few hundredths of the layer's time. Not under torch.compile, which decides itself.

    Args:
        activation: a function of each element without a state, whose own gradient needs x and not its result.
        x: any shape.
    """
    active = activation(x)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        yield active
        return
    place, size = active.data_ptr(), active.numel()

    def pack(saved: Tensor) -> Tensor | torch.Size:
        same = saved.data_ptr() == place and saved.numel() == size and saved.is_contiguous()
        return saved.shape if same and saved.dtype == x.dtype else saved

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        return packed if isinstance(packed, Tensor) else activation(x.detach()).view(packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield active


class _Kept(torch.autograd.Function):
    """x * kept * scale; what is kept for the gradient is one byte an element, not a factor of x's own type."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, kept, scale):
        return x * kept.to(x.dtype).mul_(scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, kept, ctx.scale = inputs
        ctx.save_for_backward(kept)

    @staticmethod
    def backward(ctx, grad):
        (kept,) = ctx.saved_tensors
        return grad * kept.to(grad.dtype).mul_(ctx.scale), None, None


class OutputHead(nn.Linear):
    """The pre-softmax projection, which also computes the loss so that whole logits need not exist.

    It reads its weight inside its own forward only: under ZeRO-3 and FSDP2 that is where the weight is whole.
    """

    def forward(
        self,
        hidden: Tensor,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ):
        """Logits without labels; with labels the summed losses.

        Args:
            hidden: hidden states [..., D].
            labels: target ids [...], -100 where there is none.
            label_smoothing: epsilon; the target has probability 1 - epsilon, each other word epsilon / (V - 1).
            weights: what each token's loss is multiplied by [...], without gradient; 1 where left out.

        Returns:
            Logits [..., V]; or, with labels, the pair (loss, nll): sums over the labelled tokens in float32 of the
            smoothed cross-entropy and of the plain negative log-likelihood (no gradient), in nats. No label gives 0.
        """
        if labels is None:
            few = hidden.numel() <= FEW_ROWS * hidden.shape[-1] and hidden.dtype == torch.float32
            if (
                few
                and hidden.device.type == "cpu"
                and not torch.is_grad_enabled()
                and type(self.weight) is nn.Parameter
            ):
                return few_rows_linear(hidden, self.weight, self.bias)
            return super().forward(hidden)
        return chunked_cross_entropy(
            hidden, self.weight, self.bias, labels, label_smoothing=label_smoothing, weights=weights
        )


def few_rows_linear(hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of a few rows, as when text is written: W X^T, and two rows in place of one.

    The weight's way from memory is what takes time, and a CPU's library reads it slowly for X W^T of so few rows, and
    for a matrix times a vector: 4.9 ms for one row of 256 with 40,478 words on two cores, 1.2 ms this way.

    Args:
        hidden: [..., D], at least one row.
        weight_VD: the matrix.
        bias_V: added, or None.

    Returns:
        [..., V].
    """
    hidden_ND = hidden.reshape(-1, hidden.shape[-1])
    rows = hidden_ND.shape[0]
    if rows == 1:
        hidden_ND = hidden_ND.repeat(2, 1)
    logits_NV = torch.mm(weight_VD, hidden_ND.t())[:, :rows].t().contiguous()
    logits = logits_NV.view(*hidden.shape[:-1], weight_VD.shape[0])
    return logits if bias_V is None else logits + bias_V


def as_output_head(linear: nn.Linear) -> OutputHead:
    """The weights of a plain Linear, which is what transformers makes when it resizes, in an OutputHead."""
    if isinstance(linear, OutputHead):
        return linear
    head = OutputHead(linear.in_features, linear.out_features, bias=False, device="meta")
    head.weight, head.bias = linear.weight, linear.bias  # type: ignore[assignment]
    head._is_hf_initialized = True  # type: ignore[assignment]  # else transformers' next `post_init` draws them anew
    return head


def chunked_cross_entropy(
    hidden: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed label-smoothed cross-entropy of `hidden @ weight.T + bias`, holding the logits of one chunk at a time.

    Smoothing is that of the paper's code: epsilon / (V - 1) on every wrong word. Departures: the paper cites
    Szegedy et al. (2016), who give epsilon / V to every word; its code also subtracts a constant, the entropy of the
    smoothed target.

    Gradients are computed together with the loss, chunk by chunk, so that no logits are kept or computed twice. On CUDA
    liger-kernel's fused kernel does the same where it is installed, for the plain loss. `weights` multiply each token's
    loss; none flows back to them.

    Returns:
        (loss, nll): float32 sums over the tokens whose label is not -100; nll carries no gradient.
    """
    hidden_ND, labels_N = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    weights_N1 = None if weights is None else weights.detach().reshape(-1, 1).float()
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden_ND, weight_VD = hidden_ND.to(dtype), weight_VD.to(dtype)
        bias_V = None if bias_V is None else bias_V.to(dtype)
    if torch.compiler.is_compiling():
        return _compiled_cross_entropy(hidden_ND, weight_VD, bias_V, labels_N, label_smoothing, weights_N1)
    labelled = labels_N != -100
    if not labelled.all():  # no arithmetic on padding
        hidden_ND, labels_N = hidden_ND[labelled], labels_N[labelled]
        weights_N1 = None if weights_N1 is None else weights_N1[labelled]
    fused = (
        _fused_loss() if hidden_ND.device.type in FUSED_DEVICES and not label_smoothing and weights is None else None
    )
    if fused is not None:
        loss = fused(weight_VD, hidden_ND, labels_N, bias_V).float()
        return loss, loss.detach()
    inputs = (hidden_ND, weight_VD, bias_V, labels_N, weights_N1)
    return _ChunkedCrossEntropy.apply(*inputs, label_smoothing)  # type: ignore[return-value]


@functools.cache
def _fused_loss() -> Callable[..., Tensor] | None:
    """liger-kernel's sum of cross-entropies, of (weight, hidden, labels, bias); None where it is not installed."""
    try:
        from liger_kernel.transformers import fused_linear_cross_entropy as fused  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return fused.LigerFusedLinearCrossEntropyLoss(reduction="sum")


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, labels_N, weights_N1, smoothing):
        loss, nll, ctx.gradients = _chunked_sums(
            hidden_ND, weight_VD, bias_V, labels_N, weights_N1, smoothing, ctx.needs_input_grad
        )
        ctx.smoothing, ctx.dtypes = smoothing, [None if x is None else x.dtype for x in (hidden_ND, weight_VD, bias_V)]
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, weights_N1)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx, grad_loss, _):
        # Handed on, not copied: the weight's gradient is as large as the weight. A second backward makes them anew.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            hidden_ND, weight_VD, bias_V, labels_N, weights_N1 = ctx.saved_tensors
            *_, gradients = _chunked_sums(
                hidden_ND, weight_VD, bias_V, labels_N, weights_N1, ctx.smoothing, ctx.needs_input_grad
            )
        scaled = (
            None if gradient is None else gradient.mul_(grad_loss.to(gradient.dtype)).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None


def _chunked_sums(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    weights_N1: Tensor | None,
    smoothing: float,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Both sums of `chunked_cross_entropy`, and the loss's gradients for what needs one of the first three."""
    gradients = [
        torch.empty_like(hidden_ND) if needs[0] else None,
        torch.zeros_like(weight_VD, dtype=torch.float32) if needs[1] else None,
        torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and needs[2] else None,
    ]
    other = smoothing / max(weight_VD.shape[0] - 1, 1)
    right = 1.0 - smoothing - other  # the target's probability above every other word's
    normalisers = nll = hidden_ND.new_zeros((), dtype=torch.float32)
    rows, softmax = _chunks(hidden_ND, weight_VD, bias_V)
    for start in range(0, hidden_ND.shape[0], rows):
        part = slice(start, start + rows)
        ids_N1 = labels_N[part].unsqueeze(-1)
        target, normaliser, probabilities = softmax(hidden_ND[part], ids_N1)
        losses = normaliser - target
        if weights_N1 is not None:
            losses, normaliser = losses * weights_N1[part], normaliser * weights_N1[part]
        normalisers, nll = normalisers + normaliser.sum(), nll + losses.sum()
        if not any(needs[:3]):
            continue
        gradient = probabilities.scatter_add_(-1, ids_N1, torch.full_like(target, -right))
        if weights_N1 is not None:
            gradient *= weights_N1[part]
        _add_gradients(gradients, gradient.to(hidden_ND.dtype), hidden_ND, weight_VD, part)
    loss = right * nll
    if smoothing:
        loss = loss + other * (
            weight_VD.shape[0] * normalisers - _smoothed(hidden_ND, weight_VD, bias_V, weights_N1, other, gradients)
        )
    return loss, nll, gradients


def _add_gradients(
    gradients: list[Tensor | None], gradient: Tensor, hidden_ND: Tensor, weight_VD: Tensor, part: slice
) -> None:
    """Adds what the gradient of a chunk's logits gives."""
    grad_hidden, grad_weight, grad_bias = gradients
    if grad_hidden is not None:
        torch.mm(gradient, weight_VD, out=grad_hidden[part])
    if grad_weight is not None:
        _add_product(grad_weight, gradient.t(), hidden_ND[part])
    if grad_bias is not None:
        grad_bias += gradient.sum(0, dtype=torch.float32)


def _smoothed(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    weights_N1: Tensor | None,
    other: float,
    gradients: list[Tensor | None],
) -> Tensor:
    """The sum of all logits, whose gradient times -other joins the gradients.

    The smoothed part of the target is the same for every word, so its sums need no logits.
    """
    grad_hidden, grad_weight, grad_bias = gradients
    weighted = hidden_ND if weights_N1 is None else hidden_ND * weights_N1
    tokens = hidden_ND.shape[0] if weights_N1 is None else weights_N1.sum()
    sum_D, words_D = weighted.sum(0, dtype=torch.float32), weight_VD.sum(0, dtype=torch.float32)
    if grad_hidden is not None:
        grad_hidden -= (other * words_D if weights_N1 is None else other * weights_N1 * words_D).to(grad_hidden.dtype)
    if grad_weight is not None:
        grad_weight -= other * sum_D
    if grad_bias is not None:
        grad_bias -= other * tokens
    return sum_D @ words_D + (0.0 if bias_V is None else tokens * bias_V.float().sum())


def _chunks(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None
) -> tuple[int, Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """How many rows a chunk has, and what gives its logits at the targets, its log-sums of exponentials, its softmax.

    The softmax is the caller's until the next chunk's is made. In float32 on a CPU logits lie word by word, as W X^T,
    which its library multiplies in six tenths of the time of X W^T, and in the same memory for every chunk: fresh pages
    for tens of MiB cost more than what is computed on them.
    """
    kind, vocabulary = device_kind(hidden_ND.device), weight_VD.shape[0]
    rows = min(max(CHUNK_ROWS, CHUNK_ELEMENTS[kind] // vocabulary), max(hidden_ND.shape[0], 1))

    def everywhere(hidden: Tensor, ids_N1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = nn.functional.linear(hidden, weight_VD, bias_V).float()
        probabilities = torch.softmax(logits, -1)
        normaliser = logits.amax(-1, keepdim=True) - probabilities.amax(-1, keepdim=True).log()
        return logits.gather(-1, ids_N1), normaliser, probabilities

    wrapped = hasattr(weight_VD, "__tensor_flatten__")  # spread over processes, quantised: not any product takes it
    if kind != "cpu" or hidden_ND.dtype != torch.float32 or wrapped:
        return rows, everywhere
    memory = hidden_ND.new_empty(vocabulary * rows)

    def word_by_word(hidden: Tensor, ids_N1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out_VN = memory[: vocabulary * hidden.shape[0]].view(vocabulary, -1)
        logits = torch.mm(weight_VD, hidden.t(), out=out_VN).t()
        logits = logits if bias_V is None else logits.add_(bias_V)
        target, largest = logits.gather(-1, ids_N1), logits.amax(-1, keepdim=True)
        total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
        return target, largest + total.log(), logits.mul_(1.0 / total)

    return rows, word_by_word


def device_kind(device: torch.device) -> str:
    """Key of `CHUNK_ELEMENTS`; the planner of memory asks a CPU about the other devices here."""
    return "cpu" if device.type == "cpu" else "other"


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The sums of `chunked_cross_entropy` from logits that are there anyway; plain operations, any device or compiler.

    Args:
        logits: [..., V].
        labels: target ids [...], -100 where there is none.
        label_smoothing: epsilon.
        weights: of each token [...].
    """
    keep, target = labels != -100, labels.clamp(min=0).unsqueeze(-1)
    keep = keep if weights is None else keep * weights
    log_probabilities = logits.float().log_softmax(-1)
    nll = -(log_probabilities.gather(-1, target).squeeze(-1) * keep).sum()
    other = label_smoothing / max(logits.shape[-1] - 1, 1)
    against_all = -(log_probabilities.sum(-1) * keep).sum()
    return (1.0 - label_smoothing - other) * nll + other * against_all, nll.detach()


def _compiled_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    smoothing: float,
    weights_N1: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The same sums in plain operations, for torch.compile: a fixed number of chunks, each recomputed in backward."""

    def chunk(hidden: Tensor, labels: Tensor, *weights_N: Tensor) -> tuple[Tensor, Tensor]:
        logits = nn.functional.linear(hidden, weight_VD, bias_V)
        return cross_entropy(logits, labels, label_smoothing=smoothing, weights=weights_N[0] if weights_N else None)

    inputs = (hidden_ND, labels_N, *(() if weights_N1 is None else (weights_N1.squeeze(-1),)))
    parts = zip(*(x.tensor_split(COMPILED_CHUNKS) for x in inputs), strict=True)
    sums = [torch.utils.checkpoint.checkpoint(chunk, *part, use_reentrant=False) for part in parts]
    return torch.stack([loss for loss, _ in sums]).sum(), torch.stack([nll for _, nll in sums]).sum()
