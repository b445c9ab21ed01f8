"""Pretrained text transformers: BERT and its relatives, and any causal language model, with only the blocks needed.

Layer k is ``hidden_states[k]`` of the full model: 0 the input of the first block, k the output of block k. The last
layer is what the model gives as `last_hidden_state`: in causal language models, and other families that normalise
before each block, it alone has passed the final norm, as in transformers' own ``hidden_states[-1]``.

A frame is a token of the text. The model reads its special tokens (``[CLS]``, ``<s>``, ...), but they are no frames:
pooling sees the text's own tokens alone, as MERTools and the systems built on it have it. A text that is longer than
the model reads goes through it in overlapping windows, and each token counts once; nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emocache.errors import BadOption, EncoderFault, WeightsError
from emocache.extract.encoders.tokenizer import Tokenizer, load_tokenizer, tokenizer_recipe
from emocache.extract.encoders.tokens import TextDecoder, Windows
from emocache.extract.encoders.transformer import TRAINING_ONLY, ModelFolder, load_network, recorded, stacked, to_device
from emocache.spec import COMPUTE_DTYPES, Decoded, Modality

if TYPE_CHECKING:
    from torch import Tensor, nn

Ids = NDArray[np.int64]
BATCH_NUMBERS = 2**24
"""Hidden numbers of one layer in one batch: 16,384 tokens of 1,024, or 4,096 of 4,096."""
AFTER_PADDING = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"}
"""Families whose positions begin behind the padding token's number, so that they have that many fewer."""
UNBOUNDED = 2048
"""How many tokens a model reads at once if its configuration names no limit."""
SUMMED = 4
"""MERBench and MER2023 sum this many of the last hidden states."""
UNUSED = TRAINING_ONLY | {"pooler"}
"""What some checkpoints lack and no hidden state depends on."""
CONVENTIONS = {"merbench": SUMMED, "mer2023": SUMMED}


class TextEncoder:
    """A BERT, RoBERTa, XLM-R or DeBERTa, or a causal language model (Llama, Qwen, Mistral, Gemma, GPT-2, ...).

    name: the encoder's; hub_id: where its weights come from; weights: a local folder instead
    convention: ``merbench`` or ``mer2023``: a single layer 0, the sum of the last four hidden states
    trust_remote_code: whether Python code in the model's folder may run
    raises: WeightsError if the folder is no such model
    """

    modality: Modality = "text"
    grid = (1, 1)
    dtypes = COMPUTE_DTYPES

    def __init__(
        self,
        name: str,
        hub_id: str | None = None,
        weights: Path | None = None,
        *,
        convention: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.name = name
        self.model = ModelFolder.find(name, hub_id, weights, trust_remote_code=trust_remote_code)
        if self.model.config.get("is_encoder_decoder"):
            raise WeightsError(
                f"{self.model.path}: a {self.model.config['model_type']} has an encoder and a decoder; {name} needs a "
                "model of one stack of blocks, such as a BERT or a causal language model"
            )
        self._section = "text_config." if "text_config" in self.model.config else ""
        self._depth = int(self.model.setting(f"{self._section}num_hidden_layers"))
        self._summed = _summed_states(convention)
        self.depth = 0 if self._summed else self._depth
        self.dim = int(self.model.setting(f"{self._section}hidden_size"))
        self.batch_size = BATCH_NUMBERS // self.dim

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read when it is first needed."""
        return load_tokenizer(self.model)

    @property
    def _config(self) -> Mapping[str, Any]:
        """What config.json says of the text model, which may be a part of a larger one."""
        found: Mapping[str, Any] = self.model.config[self._section[:-1]] if self._section else self.model.config
        return found

    @property
    def _most(self) -> int:
        """How many tokens the model reads at once, special ones included."""
        config = self._config
        names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
        limit = next((int(config[name]) for name in names if config.get(name)), UNBOUNDED)
        return limit - (self._pad + 1 if config["model_type"] in AFTER_PADDING else 0)

    @property
    def _pad(self) -> int:
        """The id that stands behind shorter texts of a batch; any will do, but where positions are counted from it."""
        if self._config["model_type"] in AFTER_PADDING:
            return int(self.model.setting("pad_token_id"))
        return max(0, self._config.get("pad_token_id") or 0)

    def recipe(self) -> Mapping[str, Any]:
        """Weights, configuration and tokenizer by digest, and how long texts are cut."""
        windows = Windows(self._most, 0)
        return {
            **self.model.recipe(),
            "tokenizer": tokenizer_recipe(self.model),
            "special_tokens": "read, not pooled",
            "window": [windows.most, windows.overlap],
            **({"sum_of_last_states": self._summed} if self._summed else {}),
        }

    def decoder(self) -> TextDecoder:
        """The ids of the text's own tokens: see :class:`TextDecoder`."""
        return TextDecoder(self.tokenizer.source, self._windows, self.tokenizer.unknown)

    @property
    def _windows(self) -> Windows:
        return Windows(self._most, len(self.tokenizer.prefix) + len(self.tokenizer.suffix))

    def batch_key(self, decoded: Decoded) -> Hashable:  # noqa: ARG002  # the same for all
        """Any texts may share a batch: padding stands behind a text and is masked."""
        return None

    def load(self, device: str, dtype: str, layers: Sequence[int]) -> None:
        """Load the blocks up to the highest of `layers`; the others are not even read into the network.

        raises: WeightsError if the checkpoint lacks a parameter that the network needs
        """
        self._highest = max(1, *self._states_of(layers))
        own_class = self.model.remote_code and "AutoModel" not in self.model.config["auto_map"]
        settings = {"num_hidden_layers": self._highest, "use_cache": False, **self._shortened(self._highest)}
        network = load_network(
            self.model,
            {f"{self._section}{name}": value for name, value in settings.items()},
            device=device,
            dtype=dtype,
            model_class="AutoModelForCausalLM" if own_class else "AutoModel",
            part="language_model" if self._section else "",
            spare=UNUSED,
        )
        network = getattr(network, "base_model", network)
        if getattr(network, "pooler", None) is not None:
            network.pooler = None  # it would turn the first token into one vector more, which nobody asked for
        self._network: Any = network
        self.blocks = _block_list(network, self._highest, self.model)

    def _shortened(self, highest: int) -> dict[str, Any]:
        """Entries of the configuration that say something of each block (such as its kind of attention), cut off."""
        lists = {key: value for key, value in self._config.items() if isinstance(value, list)}
        return {key: value[:highest] for key, value in lists.items() if len(value) == self._depth}

    def _states_of(self, layers: Sequence[int]) -> Sequence[int]:
        """The hidden states from which `layers` are made: their own, but for a convention."""
        return range(self._depth - self._summed + 1, self._depth + 1) if self._summed else layers

    def forward(self, batch: Sequence[Ids], layers: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Frames of some texts.

        batch: int64 ``(token,)`` each
        returns: ``(clip, layer, token, dim)`` in the compute dtype, and each clip's count of tokens
        """
        pieces = [(row, span) for row, ids in enumerate(batch) for span in self._windows.of(len(ids))]
        lengths = [len(ids) for ids in batch]
        at_once = max(1, self.batch_size // self._most)
        if len(pieces) == len(batch):
            return self._states(batch, layers), lengths
        frames: Tensor | None = None
        for start in range(0, len(pieces), at_once):
            some = pieces[start : start + at_once]
            states = self._states([batch[row][span.start : span.stop] for row, span in some], layers)
            if frames is None:
                frames = states.new_zeros(len(batch), states.shape[1], max(lengths), self.dim)
            for (row, span), found in zip(some, states, strict=True):
                frames[row, :, span.first : span.last] = found[:, span.first - span.start : span.last - span.start]
        assert frames is not None  # noqa: S101 (each text has a window)
        return frames, lengths

    def _states(self, texts: Sequence[Ids], layers: Sequence[int]) -> Tensor:
        """Hidden states of texts that fit into the model, ``(text, layer, token, dim)``; special tokens cut off before,
        and behind a text whatever stands there.
        """
        prefix, suffix = self.tokenizer.prefix, self.tokenizer.suffix
        rows = [np.concatenate([prefix, ids, suffix]).astype(np.int64) for ids in texts]
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._pad, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        self._check_ids(ids)
        device = self._network.device
        padded = None if mask.all() else to_device(mask, device)
        wanted = self._states_of(layers)
        with recorded(self.blocks, wanted, end=self._convolution, depth=1) as found:
            last = self._network(input_ids=to_device(ids, device), attention_mask=padded).last_hidden_state
        if self._depth in wanted:
            found[self._depth] = last  # behind the final norm, where the model has one
        states = stacked(found, wanted)[:, :, len(prefix) :]
        return states.sum(dim=1, keepdim=True) if self._summed else states

    @property
    def _convolution(self) -> nn.Module | None:
        """The convolution that some DeBERTa models have behind the first block: what leaves it is layer 1."""
        return getattr(getattr(self._network, "encoder", None), "conv", None)

    def _check_ids(self, ids: Ids) -> None:
        """A token that the model has no row for would end a GPU's whole process."""
        rows = self._network.get_input_embeddings().weight.shape[0]
        if ids.max() >= rows:
            raise EncoderFault(
                f"{self.model.path}: the tokenizer gives token {ids.max()}, the model has {rows}; take the tokenizer "
                "that belongs to the model"
            )


def _summed_states(convention: str | None) -> int:
    """How many of the last hidden states a convention adds up; 0 for none.

    raises: BadOption for an unknown one
    """
    if convention is None:
        return 0
    if convention not in CONVENTIONS:
        raise BadOption(f"--convention {convention!r} is not known; known: {', '.join(sorted(CONVENTIONS))}")
    return CONVENTIONS[convention]


def _block_list(network: nn.Module, count: int, model: ModelFolder) -> Sequence[nn.Module]:
    """The network's blocks, whatever the family calls them: the outermost list of `count` modules of one class.

    raises: WeightsError if there is none, or more than one
    """
    from torch import nn

    lists = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(block) for block in module}) == 1
    }
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise WeightsError(
            f"{model.path}: expected one list of {count} blocks in the network, found {', '.join(outer) or 'none'}; "
            "emocache reads models of one stack of blocks"
        )
    return list(lists[outer[0]])
