# SPDX-License-Identifier: Apache-2.0
"""FlashInfer (PyPI's flashinfer-python) as contenders of peers_cuda.py: its top-k on hattn's scores, its paged batch decode.

Its kernels are compiled when they are first called, for which nvcc and ninja must be found.
"""
import torch

from cuda_rounds import Contender, buffer, differs
from hattn.abi import ScoreArgs, TopkArgs
from hattn.library import sized

PAGE_SIZE = 64
WORKSPACE = 256 << 20  # what its documentation asks for is 128 MiB


def find():
    """The package, or why it cannot be had."""
    try:
        import flashinfer
        return flashinfer, ""
    except Exception as error:  # whatever its import runs into
        return None, "not there: %s: %s" % (type(error).__name__, str(error).split("\n")[0][:100])


def version():
    package, why = find()
    return "FlashInfer %s" % package.__version__ if package else "FlashInfer " + why


def absent(names, why):
    """Contenders that say why they have no times."""
    def refuse(_):
        raise RuntimeError(why)
    return [Contender(name, refuse, 1) for name in names]


def first_call(contender, check):
    """Its note says what is wrong with the result; what it cannot run is told when it is captured."""
    try:
        contender.note = check(contender.call(0))
    except Exception:
        pass
    return contender


def decode_contenders(hattn, layers):
    """Dense decode over pages in the order of `hattn`, which has pages of PAGE_SIZE."""
    names = ["FlashInfer batch decode, pages of %d%s" % (PAGE_SIZE, more) for more in (", tensor cores", "")]
    package, why = find()
    if not package:
        return absent(names, why)
    shape, contenders = layers.shape, []
    hattn.dense(0)
    torch.cuda.synchronize()
    expected = hattn.out.clone()
    pages = shape.n // PAGE_SIZE
    starts = torch.arange(shape.batch + 1, dtype=torch.int32, device="cuda") * pages
    last = torch.full((shape.batch,), PAGE_SIZE, dtype=torch.int32, device="cuda")
    cache = [tuple(x[i].view(-1, shape.num_kv_heads, PAGE_SIZE, x.shape[-1]) for x in (layers.k, layers.v))
             for i in range(layers.count)]
    for name, tensor_cores in zip(names, (True, False)):
        try:
            workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device="cuda")
            wrapper = package.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=tensor_cores)
            wrapper.plan(starts, hattn.table.view(-1), last, shape.num_q_heads, shape.num_kv_heads, layers.q.shape[-1],
                         PAGE_SIZE, q_data_type=torch.float16, kv_data_type=torch.float16)
        except Exception as error:  # compiled here, too
            contenders += absent([name], "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:100]))
            continue
        contender = Contender(name, lambda i, wrapper=wrapper: wrapper.run(layers.q, cache[i]), layers.count)
        contenders.append(first_call(contender, lambda out: differs(out, expected)))
    return contenders


class Scores:
    """hattn's scores of a layer as a serving engine would have them, and hattn's own top-k of them."""

    def __init__(self, hattn, layers):
        shape = layers.shape
        self.hattn, self.rows = hattn, shape.batch * shape.num_kv_heads
        hattn.select(0)  # leaves weights and the selection
        self.scores = torch.zeros((shape.batch, shape.num_kv_heads, shape.n), dtype=torch.int16, device="cuda")
        batch, args = hattn.batch(), sized(ScoreArgs)
        args.batch, args.weights, args.codes = batch, buffer(hattn.weights), buffer(layers.codes[0])
        args.scores = buffer(self.scores)
        hattn.plan.run("score", args)
        self.topk_args = sized(TopkArgs)
        self.topk_args.batch, self.topk_args.scores = batch, buffer(self.scores)
        self.indices, self.counts = torch.empty_like(hattn.indices), torch.empty_like(hattn.counts)
        self.topk_args.indices, self.topk_args.counts = buffer(self.indices), buffer(self.counts)
        torch.cuda.synchronize()
        self.halves = self.scores.view(self.rows, -1).half()  # exact: scores are below 2048
        self.expected = hattn.indices.view(self.rows, -1).long()

    def topk(self, _):
        self.hattn.plan.run("topk", self.topk_args)
        return None, self.indices.view(self.rows, -1)

    def same_scores(self, result):
        kept = torch.gather(self.halves, 1, result[1].long()).sort(1).values
        best = torch.gather(self.halves, 1, self.expected).sort(1).values
        return "" if bool((kept == best).all()) else "other scores than hattn's selection"

    def same_keys(self, result):
        same = bool((result[1].long().sort(1).values == self.expected).all())
        return "" if same else "other keys than hattn's selection"


def topk_contenders(hattn, layers):
    """hattn, torch and FlashInfer on the same scores, which lie in L2 as after scoring."""
    scores, k = Scores(hattn, layers), layers.shape.k
    contenders = [first_call(Contender("top-k: hattn, exact, ties to the smallest index, rising", scores.topk, 1),
                             scores.same_keys),
                  first_call(Contender("top-k: torch.topk", lambda _: torch.topk(scores.halves, k, sorted=False), 1),
                             scores.same_scores)]
    names = ["top-k: FlashInfer top_k", "top-k: FlashInfer top_k, deterministic, ties to the smallest index"]
    package, why = find()
    if not package:
        return contenders + absent(names, why)
    for name, options, check in ((names[0], {}, scores.same_scores),
                                 (names[1], {"deterministic": True, "tie_break": 1}, scores.same_keys)):
        call = lambda _, options=options: package.top_k(scores.halves, k, **options)
        contenders.append(first_call(Contender(name, call, 1), check))
    return contenders
