#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""From a model to a decode with its own hash maps, in 70 seconds of a CPU: python3 examples/hash_attention.py [OUT]

The model is small_model, beside this file; the text is what Python carries for its help(). Each step is a command that
you can give for a model of your own: it is printed before it runs. Needs the package (docs/python.md says how), torch
and transformers.
"""
import argparse
import json
import os
import sys
import tempfile
import time

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "small_model"))
import make  # noqa: E402

BITS = 32  # of a code, for heads of 64 dimensions: from so many on, orthogonal maps are hard to beat
TEXTS, PASSAGE, SHOWN = 8, 64, 64  # bytes of what is to be found again: given, and to be continued
FLOOR = 0.128  # of probability, by the number of keys that are to have it: some 120 of 4096 have 1e-3
TAIL = 0.5  # of what scores promise of keys that are not kept


def step(what, module, *arguments):
    """Runs a command of the package, and ends where it is refused; check's 1 says that orthogonal maps keep more."""
    arguments = [str(argument) for argument in arguments]
    name = module.__name__.removesuffix(".__main__")
    print("\n== %s\n$ python3 -m %s %s" % (what, name, " ".join(arguments)), flush=True)
    start = time.monotonic()
    status = module.main(arguments)
    print("(%.0f s)" % (time.monotonic() - start), flush=True)
    if status > 1:
        sys.exit(status)


def compare(path):
    """What evaluate wrote, for selections of about one size: a fixed number of keys, and what a floor and a tail, and
    then scores per query head, make of it."""
    with open(path) as file:
        rows = json.load(file)
    print("\n== At about one size: KL from the predictions of all keys, and how many keys were kept")
    for distance in dict.fromkeys(row["distance"] for row in rows):
        found = {(row["min_probability"] > 0, row["tail"] > 0, row["num_candidates"] > 0): row for row in rows
                 if row["distance"] == distance and row["budget"] is not None}
        ways = {"fixed": (False, False, False), "floor and tail": (True, True, False),
                "scores per query head too": (True, True, True)}
        print("%s: %s" % ("copied from %d back" % distance if distance else "as the text goes on", "; ".join(
            "%s %.4f (%.0f)" % (name, found[way]["kl"], found[way]["rows"]) for name, way in ways.items())))


def continue_passages(model_path, maps, window, ways):
    """Gives the model texts, each with the beginning of a passage that stands far back in it, which it must look up."""
    import hattn.transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    length = window - PASSAGE - SHOWN
    texts = tokenizer(make.topics(held_out=True), return_tensors="pt")["input_ids"][0, :TEXTS * length]
    texts, at = texts.view(TEXTS, length), length // 8
    prompts, expected = torch.cat([texts, texts[:, at:at + PASSAGE]], 1), texts[:, at + PASSAGE:at + PASSAGE + SHOWN]
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, attn_implementation=hattn.transformers.NAME,
                                                              dtype=torch.float32)
    print("\n== generate(): %d texts of %d bytes, each followed by %d of a passage that stands %d bytes back in it" %
          (TEXTS, length, PASSAGE, length - at))
    shown = None
    for name, way in ways.items():
        cache = hattn.transformers.HashCache(model.config, maps, num_sink=4, num_recent=min(16, way["budget"] // 4),
                                             **way)
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), past_key_values=cache,
                             max_new_tokens=SHOWN, do_sample=False, pad_token_id=0)
        new = out[:, prompts.shape[1]:]
        same = (new == expected).long().cumprod(1).sum(1)
        if shown is None:  # the one that all keys know best
            shown = int(same.argmax())
            print("what stands there in text %d: %r" % (shown, tokenizer.decode(expected[shown])))
        print("%s: the passages go on for %.0f of %d bytes in the mean\n    %r" % (
            name, same.double().mean(), SHOWN, tokenizer.decode(new[shown])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", help="a folder for traces and maps; default: one that is gone afterwards")
    parser.add_argument("--model", default=os.path.join(HERE, "small_model"), help="a folder that its make.py wrote")
    parser.add_argument("--window", type=int, default=4096,
                        help="bytes of text that are attended to (4096: the model has seen no more)")
    parser.add_argument("--budget", type=int, default=128, help="selected keys (128)")
    parser.add_argument("--steps", type=int, default=200, help="of training (200)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # a model as small gains little from more, which wait for each other on busy processors
    with tempfile.TemporaryDirectory() as temporary:
        run(args.model, args.out or temporary, args.window, args.budget, args.steps)


def run(model, out, window, budget, steps):
    import hattn.evaluate
    import hattn.maps.__main__ as maps
    os.makedirs(out, exist_ok=True)
    path = {name: os.path.join(out, name) for name in ("learn.txt", "held.txt", "learn", "held", "maps", "kl.json")}
    floor = {"--min-probability": FLOOR / budget, "--most": 4 * budget, "--min-k": budget // 8}
    for name, held_out in (("learn.txt", False), ("held.txt", True)):
        with open(path[name], "w", encoding="utf-8") as file:
            file.write(make.topics(held_out))
    step("What attention sees, on text to learn from and on other text", maps, "capture", model, "--text",
         path["learn.txt"], "--window", window, "--windows", 12, "--queries", 256, "--out", path["learn"])
    step("The same of other text", maps, "capture", model, "--text", path["held.txt"], "--window", window, "--windows",
         4, "--queries", 128, "--out", path["held"])
    step("Hash maps for each layer", maps, "train", path["learn"], "--kind", "weighted", "--bits", BITS, "--steps",
         steps, "--budget", budget, "--out", path["maps"])
    step("What a selection of %d keys keeps of softmax, on the other text" % budget, maps, "check", path["maps"],
         path["held"], "--budget", budget)
    step("What the model's predictions lose, also of spans that are copied from far back", hattn.evaluate, model,
         "--maps", path["maps"], "--text", path["held.txt"], "--window", window, "--tokens", min(64, window // 16),
         "--distances", "%d,%d" % (window // 2, window // 8 * 7), "--budgets", budget,
         *(word for option in floor.items() for word in option), "--tail", "0,%g" % TAIL, "--candidates",
         "0,%d" % (4 * budget), "--json", path["kl.json"])
    compare(path["kl.json"])
    beyond = dict(budget=4 * budget, min_probability=FLOOR / budget, min_k=budget // 8)
    continue_passages(model, path["maps"], window, {
        "all keys": dict(budget=window), "%d keys" % budget: dict(budget=budget),
        "%d keys" % (budget // 4): dict(budget=budget // 4),
        "keys above %g" % (FLOOR / budget): beyond,
        "the same, tail and scores per query head": dict(tail=TAIL, num_candidates=4 * budget, **beyond)})


if __name__ == "__main__":
    main()
