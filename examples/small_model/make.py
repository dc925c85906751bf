#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the small model beside this file: python3 examples/small_model/make.py OUT. Needs torch and transformers;
nothing is downloaded.

A byte-level Llama of a million parameters learns the language reference that Python carries for its help() (pydoc_data,
Python's licence), but for every eighth topic, in sequences that repeat spans of themselves from far back: it has to
look back, so that what a decode step selects matters. Sequences grow from 256 bytes to 4096.
"""
import argparse
import pydoc_data.topics
import time

import tokenizers
import torch
import transformers

CONFIG = dict(vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
              num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, rope_theta=1e6,
              initializer_range=0.06, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)
# Of sequences of 64 random bytes that repeat, models learn to look back within 600 steps; of text, not within 1000.
REPEATS, RATE = 700, 2e-3
STAGES = [(256, 8, 400), (1024, 4, 300), (4096, 2, 1000)]  # then text: bytes of a sequence, sequences of a step, steps


def tokenizer():
    """A token a byte: byte-level BPE without merges."""
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    bytes_only = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_only)


def topics(held_out):
    """Every eighth topic is for measuring."""
    chosen = sorted(pydoc_data.topics.topics.items())
    return "\n".join(text for i, (_, text) in enumerate(chosen) if (i % 8 == 7) == held_out)


def repeats(rows, length, generator):
    """[rows, length] of random bytes, again and again, and which of them a model can know by looking back."""
    noise = torch.randint(256, (rows, length), generator=generator)
    period = torch.randint(length // 4, length // 2 + 1, (rows, 1), generator=generator)
    at = torch.arange(length)[None]
    return noise.gather(1, at % period), at >= period + 2


def recalls(rows, length, tokens, generator):
    """[rows, length]: text, then spans of what was before, from anywhere, between pieces of other text; and so on."""
    def draw(low, high):
        return int(torch.randint(low, max(low + 1, high), (), generator=generator))

    ids, known = torch.empty((rows, length), dtype=torch.int64), torch.zeros((rows, length), dtype=torch.bool)
    for row in range(rows):
        at, copy = 0, False
        while at < length:
            size = draw(length // 4, length // 2) if at == 0 else min(draw(16, 160), at) if copy else draw(8, 64)
            size = min(size, length - at)
            start = draw(0, at - size if copy else len(tokens) - size)
            ids[row, at:at + size] = (ids[row] if copy else tokens)[start:start + size].clone()
            known[row, at + 2:at + size] = copy
            at, copy = at + size, not copy
    return ids, known


def batches(tokens, generator):
    for _ in range(REPEATS):
        yield repeats(32, 64, generator)
    for length, rows, count in STAGES:
        for _ in range(count):
            yield recalls(rows, length, tokens, generator)


def train(seed, device):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor(tokenizer()(topics(False))["input_ids"])
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
    rest, start = sum(count for _, _, count in STAGES), time.monotonic()
    for step, (ids, known) in enumerate(batches(tokens, generator), 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, step / 50) * min(1, (REPEATS + rest + 1 - step) / rest)
        ids, known = ids.to(device), known[:, 1:].to(device)
        losses = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].transpose(1, 2), ids[:, 1:],
                                                   reduction="none")
        loss = losses[known].mean() if step <= REPEATS else losses.mean()  # nobody knows random bytes
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            copies, other = losses[known].mean().item(), losses[~known].mean().item()
            print("step %d of %d, %d bytes: loss of copies %.3f, of the rest %.3f, %.0f s" %
                  (step, REPEATS + rest, ids.shape[1], copies, other, time.monotonic() - start), flush=True)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(args.seed, args.device).cpu().half().save_pretrained(args.out)
    tokenizer().save_pretrained(args.out)


if __name__ == "__main__":
    main()
