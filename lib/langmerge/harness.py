"""lm-eval's Hugging Face model, made to score all options of an item in one forward pass.

The stock class runs one sequence per option unless every option is a single token. Here an
item's options stand side by side behind their common prompt; a block mask keeps them from
seeing each other, and positions count on from the prompt. Only positions that predict an
option's token go through the output matrix, the widest of a tiny model.
"""

from __future__ import annotations

from itertools import groupby

import torch
from lm_eval.models.huggingface import HFLM

Request = tuple[tuple[str, str], list[int], list[int]]
#: Options of more tokens than this in all (or running text) take the stock path.
LONGEST_OPTIONS = 64


class SharedPromptLM(HFLM):
    """HFLM with one forward pass per prompt instead of one per option; same numbers."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._encoded: dict[tuple, list[int]] = {}
        super().__init__(*args, **kwargs)

    def tok_encode(self, string: str, *args: object, **kwargs: object) -> list[int]:
        """Encode once: the harness encodes the same items again for every model."""
        key = (string, args, tuple(sorted(kwargs.items())), self.add_bos_token)
        if key not in self._encoded:
            self._encoded[key] = super().tok_encode(string, *args, **kwargs)
        return self._encoded[key]

    def loglikelihood_rolling(self, *args: object, **kwargs: object) -> list[float]:
        """Log-likelihood of running text behind one end-of-text token.

        The stock class puts that token before every text and then encodes the text with
        another: it would score the second one, which no text has.
        """
        self.add_bos_token, before = False, self.add_bos_token
        try:
            return super().loglikelihood_rolling(*args, **kwargs)
        finally:
            self.add_bos_token = before

    def _loglikelihood_tokens(
        self, requests: list[Request], *args: object, **kwargs: object
    ) -> list[tuple[float, bool]]:
        grouped = [list(group) for _, group in groupby(requests, key=lambda request: request[1])]
        if any(self._takes_stock_path(group) for group in grouped):
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        order = sorted(range(len(grouped)), key=lambda i: -len(grouped[i][0][1]))
        answers: list[list[tuple[float, bool]]] = [[] for _ in grouped]
        size = int(self.batch_size)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for i, found in zip(batch, self._score([grouped[i] for i in batch]), strict=True):
                answers[i] = found
        return [answer for group in answers for answer in group]

    def _takes_stock_path(self, group: list[Request]) -> bool:
        """Running text, and prompts so long that the stock class cuts them."""
        lengths = [len(request[2]) for request in group]
        return (
            sum(lengths) > LONGEST_OPTIONS or len(group[0][1]) + max(lengths) > self.max_length + 1
        )

    @torch.inference_mode()
    def _score(self, groups: list[list[Request]]) -> list[list[tuple[float, bool]]]:
        """Per prompt and option, the summed log-probability and whether it is the greedy choice."""
        rows = [_pack(group[0][1], [request[2] for request in group]) for group in groups]
        width = max(len(row.tokens) for row in rows)
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        positions = torch.zeros_like(tokens)
        visible = torch.zeros(len(rows), 1, width, width, dtype=torch.bool)
        for i, row in enumerate(rows):
            n = len(row.tokens)
            tokens[i, :n] = torch.tensor(row.tokens)
            positions[i, :n] = torch.tensor(row.positions)
            visible[i, 0, :n, :n] = row.visible()
        # Padding sees itself, or its softmax over nothing would be NaN.
        visible |= torch.eye(width, dtype=torch.bool)
        hidden = self.model.model(
            input_ids=tokens.to(self.device),
            position_ids=positions.to(self.device),
            attention_mask=torch.zeros(visible.shape)
            .masked_fill(~visible, torch.finfo(torch.float32).min)
            .to(self.device, self.model.dtype),
        ).last_hidden_state
        row_of = [i for i, row in enumerate(rows) for _ in row.reads]
        read_at = [position for row in rows for position in row.reads]
        scores = self.model.lm_head(hidden[row_of, read_at]).float().log_softmax(-1).cpu()
        target = torch.tensor([token for row in rows for token in row.targets])
        log_likelihood = scores.gather(1, target[:, None])[:, 0].double().tolist()
        greedy = (scores.argmax(-1) == target).tolist()
        return _per_option(groups, log_likelihood, greedy)


class _Row:
    """A prompt and its options in one sequence."""

    def __init__(self, prompt: list[int]) -> None:
        self.tokens = list(prompt)
        self.positions = list(range(len(prompt)))
        self.block = [0] * len(prompt)
        self.reads: list[int] = []
        self.targets: list[int] = []

    def visible(self) -> torch.Tensor:
        """Which position sees which: causal, within the prompt and the option's own block."""
        block = torch.tensor(self.block)
        same = (block[None, :] == block[:, None]) | (block[None, :] == 0)
        return same.tril()


def _pack(prompt: list[int], options: list[list[int]]) -> _Row:
    row = _Row(prompt)
    last = len(prompt) - 1
    for number, option in enumerate(options, start=1):
        # The prompt's end predicts an option's first token; its own tokens the others.
        row.reads.append(last)
        row.targets.append(option[0])
        for offset, token in enumerate(option[:-1]):
            row.reads.append(len(row.tokens))
            row.targets.append(option[offset + 1])
            row.tokens.append(token)
            row.positions.append(len(prompt) + offset)
            row.block.append(number)
    return row


def _per_option(
    groups: list[list[Request]], log_likelihood: list[float], greedy: list[bool]
) -> list[list[tuple[float, bool]]]:
    answers, at = [], 0
    for group in groups:
        found = []
        for _, _, option in group:
            end = at + len(option)
            found.append((sum(log_likelihood[at:end]), all(greedy[at:end])))
            at = end
        answers.append(found)
    return answers
