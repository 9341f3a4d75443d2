"""Greedy speculative decoding in plain PyTorch, from the papers and the exported files. The engine's counters must equal its counts.

It uses neither vLLM nor speculators. The target is transformers' Llama. Verification at temperature 0 changes no token. The target's
greedy continuation is therefore computed once, and a draft is correct as far as it agrees with that continuation.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM


@dataclass
class Counts:
    """What an engine counts: drafts, proposed tokens, accepted tokens, accepted at each position."""

    k: int
    drafts: int = 0
    accepted_per_position: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.accepted_per_position = [0] * self.k

    @property
    def draft_tokens(self) -> int:
        """Tokens proposed: `k` in every draft."""
        return self.drafts * self.k

    @property
    def accepted(self) -> int:
        """Tokens accepted at all positions."""
        return sum(self.accepted_per_position)

    @property
    def acceptance_length(self) -> float:
        """Tokens gained by a verification."""
        return 1 + self.accepted / self.drafts

    def add(self, accepted: int) -> None:
        """Count a draft whose first `accepted` tokens were right."""
        self.drafts += 1
        for position in range(accepted):
            self.accepted_per_position[position] += 1


class Head:
    """A draft head as exported: tensors and configuration; what the file leaves out is the target's."""

    def __init__(self, path: Path, target: LlamaForCausalLM) -> None:
        config = json.loads((path / "config.json").read_text())
        layer = config["transformer_layer_config"]
        self.method: str = config["speculators_model_type"]
        self.config = config
        self.heads: int = layer["num_attention_heads"]
        self.kv_heads: int = layer["num_key_value_heads"]
        self.head_dim: int = layer["head_dim"]
        self.layers: int = layer["num_hidden_layers"]
        self.eps: float = layer["rms_norm_eps"]
        self.theta: float = layer["rope_parameters"]["rope_theta"]
        self.aux: list[int] = config.get("eagle_aux_hidden_state_layer_ids") or config["aux_hidden_state_layer_ids"]
        tensors = load_file(path / "model.safetensors")
        self.tensors = {"embed_tokens.weight": target.model.embed_tokens.weight, "lm_head.weight": target.lm_head.weight, **tensors}

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Multiply by a weight matrix; no layer here has a bias."""
        return functional.linear(x, self.tensors[f"{name}.weight"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Divide by the root mean square of the last dimension and multiply by a weight."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.tensors[f"{name}.weight"]

    def embed(self, tokens: Tensor) -> Tensor:
        """Look tokens up."""
        return self.tensors["embed_tokens.weight"][tokens]

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotary embedding of x [T, heads, head_dim]: the first half of a head's dimensions pairs with the second."""
        half = self.head_dim // 2
        angles = positions[:, None, None] * self.theta ** (-torch.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """Softmax attention of q [Q, heads, d] over k and v [T, kv_heads, d], as [Q, heads * d]."""
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,thd->hqt", q, k) / self.head_dim**0.5
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
        return torch.einsum("hqt,thd->qhd", scores.softmax(-1), v).flatten(1)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        """The gated feed-forward network of Llama and Qwen3."""
        return self.linear(f"{name}.down_proj", functional.silu(self.linear(f"{name}.gate_proj", x)) * self.linear(f"{name}.up_proj", x))

    def best_token(self, normed: Tensor) -> Tensor:
        """The likeliest tokens, as ids of the target's vocabulary."""
        tokens = self.linear("lm_head", normed).argmax(-1)
        return tokens + self.tensors["d2t"][tokens] if "d2t" in self.tensors else tokens


def draft_eagle3(head: Head, tokens: Tensor, aux: Tensor, k: int) -> list[int]:
    """Draft `k` tokens after `tokens` [n], of which all but the last have target features `aux` [n - 1, features] (arXiv 2503.01840).

    Each position pairs a token with the features of the one before it; beyond the known ones the head's own output stands in.
    """
    if head.config["norm_before_fc"]:
        aux = head.norm("input_norm", aux)
    features, inputs = head.linear("fc", aux), tokens[1:]
    for _ in range(k):
        embedded, hidden = head.norm("layers.0.input_layernorm", head.embed(inputs)), head.norm("layers.0.hidden_norm", features)
        residual = hidden if head.config["norm_before_residual"] else features
        x, positions = torch.cat([embedded, hidden], dim=-1), torch.arange(len(inputs))
        q, key, v = (head.linear(f"layers.0.self_attn.{part}_proj", x).unflatten(-1, (-1, head.head_dim)) for part in "qkv")
        attended = head.attend(head.rotate(q, positions), head.rotate(key, positions), v, causal=True)
        residual = residual + head.linear("layers.0.self_attn.o_proj", attended)
        output = residual + head.mlp("layers.0.mlp", head.norm("layers.0.post_attention_layernorm", residual))
        normed = head.norm("norm", output[-1:])
        inputs = torch.cat([inputs, head.best_token(normed)])
        features = torch.cat([features, normed if head.config["norm_output"] else output[-1:]])
    return inputs[-k:].tolist()


def draft_dflash(head: Head, tokens: Tensor, aux: Tensor, k: int) -> list[int]:
    """Draft `k` tokens after `tokens` [n] at once: the last token and `k` masks attend to each other and to the features of the rest."""
    context = head.norm("hidden_norm", head.linear("fc", aux))
    block = torch.cat([tokens[-1:], torch.full((k,), head.config["mask_token_id"])])
    x, at = head.embed(block), torch.arange(len(tokens) - 1, len(tokens) + k)
    everywhere = torch.arange(len(tokens) + k)
    for layer in (f"layers.{index}" for index in range(head.layers)):
        normed = head.norm(f"{layer}.input_layernorm", x)
        q = head.linear(f"{layer}.self_attn.q_proj", normed).unflatten(-1, (-1, head.head_dim))
        seen = torch.cat([context, normed])
        key, v = (head.linear(f"{layer}.self_attn.{part}_proj", seen).unflatten(-1, (-1, head.head_dim)) for part in "kv")
        q, key = head.norm(f"{layer}.self_attn.q_norm", q), head.norm(f"{layer}.self_attn.k_norm", key)
        attended = head.attend(head.rotate(q, at), head.rotate(key, everywhere), v, causal=False)
        x = x + head.linear(f"{layer}.self_attn.o_proj", attended)
        x = x + head.mlp(f"{layer}.mlp", head.norm(f"{layer}.post_attention_layernorm", x))
    return head.best_token(head.norm("norm", x))[1:].tolist()


DRAFTERS: dict[str, Callable[[Head, Tensor, Tensor, int], list[int]]] = {"eagle3": draft_eagle3, "dflash": draft_dflash}


@torch.no_grad()
def speculate_greedily(
    target: Path, head_path: Path, prompts: list[list[int]], output_tokens: int, k: int, ends: Collection[int] = ()
) -> Counts:
    """Count what an engine should count for `prompts` (token ids) at temperature 0, with at most `output_tokens` each.

    A token of `ends` is the last of an answer. The first output token comes from the prompt alone. A draft is counted whole even where it
    reaches beyond the last output token.
    """
    model = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32)
    head = Head(head_path, model)
    counts = Counts(k)
    for prompt in prompts:
        tokens = continue_greedily(model, prompt, output_tokens + k)
        hidden = model.model(tokens[None], output_hidden_states=True).hidden_states
        aux = torch.cat([hidden[layer][0] for layer in head.aux], dim=-1)
        known, last = len(prompt) + 1, len(prompt) + output_tokens
        last = next((place + 1 for place in range(len(prompt), last) if int(tokens[place]) in ends), last)
        while known < last:
            drafted = DRAFTERS[head.method](head, tokens[:known], aux[: known - 1], k)
            right = [guess == truth for guess, truth in zip(drafted, tokens[known : known + k].tolist(), strict=True)]
            accepted = right.index(False) if False in right else k
            counts.add(accepted)
            known += accepted + 1
    return counts


def continue_greedily(model: LlamaForCausalLM, prompt: list[int], length: int) -> Tensor:
    """Return `prompt` and its `length` likeliest next tokens, one after the other; the end-of-sequence token is a token like any other."""
    return model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=length, max_new_tokens=length, pad_token_id=0)[0]


@torch.no_grad()
def speculate_on_itself(target: Path, prompts: list[list[int]], output_tokens: int, k: int, temperature: float, seed: int) -> Counts:
    """Count for a target sampled at `temperature` whose draft is its own greedy continuation (arXiv 2211.17192, draft without sampling).

    A drafted token is kept with its probability under the target, otherwise replaced by a sample of the others.
    """
    model = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32)
    chance = torch.Generator().manual_seed(seed)
    counts = Counts(k)
    for prompt in prompts:
        first = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1)
        known = [*prompt, int(torch.multinomial(first, 1, generator=chance))]
        while len(known) < len(prompt) + output_tokens:
            drafted = continue_greedily(model, known, k)
            probabilities = (model(drafted[None]).logits[0, len(known) - 1 :] / temperature).softmax(-1)
            guesses = drafted[len(known) :].tolist()
            accepted = 0
            while accepted < k and torch.rand((), generator=chance) < probabilities[accepted, guesses[accepted]]:
                accepted += 1
            left = probabilities[accepted].clone()
            if accepted < k:
                left[guesses[accepted]] = 0
            counts.add(accepted)
            known += [*guesses[:accepted], int(torch.multinomial(left, 1, generator=chance))]
    return counts
