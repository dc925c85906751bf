import ctypes as C, sys, os, statistics, math, json, random
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "bench"))
import torch
from hattn_ctypes import *
lib_path, parts = sys.argv[1], sys.argv[2].split(",")
lib = Library(lib_path); dev = Device(lib, 1, "cuda")
HKV, HQ, D, PAGE = 8, 32, 128, 64
def buf(t): return Buffer(t.data_ptr(), 0)
def alloc(n):
    m = torch.empty(n, dtype=torch.uint8, device="cuda"); return m, m.data_ptr()
has_counter = hasattr(C.CDLL(lib_path), "hattn_plan_counter")
class Case:
    def __init__(self, plan_rows, lens, launched=None, max_length=131072, k=2048, layers=None, codes=None, paged=True, norms=False, weighted=False, ragged=False, stream=None, bits=128):
        self.stream = stream
        rows = launched or len(lens); lens = list(lens) + [0]*(rows-len(lens))
        kw = dict(num_q_heads=HQ, num_kv_heads=HKV, head_dim_qk=D, code_bits=bits, score_kind=WEIGHTED if weighted else HAMMING, weight_bits=4,
            max_sequences=plan_rows, max_rows=plan_rows, max_length=max_length, k=k, page_size=PAGE if paged else 0)
        if norms: kw["key_norms"]=1
        self.problem = lib.problem(**kw)
        self.plan = Plan(dev, self.problem, alloc, stream.cuda_stream)
        total = sum(lens)
        need = total*HKV*16 + sum(min(k,l) for l in lens)*HKV*D*4
        self.L = layers or max(2, min(24, -(-(256<<20)//max(need,1)), int(60e9//max(1,total*HKV*D*4))))
        pages = sum(-(-l//PAGE) for l in lens) if paged else rows*(max_length//PAGE)
        self.k = [torch.empty((pages, HKV, PAGE, D), dtype=torch.float16, device="cuda").normal_() for _ in range(self.L)]
        self.v = [torch.empty((pages, HKV, PAGE, D), dtype=torch.float16, device="cuda").normal_() for _ in range(self.L)]
        W = bits//32
        self.codes = codes(self.L, pages*PAGE*HKV, W) if codes else [torch.randint(-2**31, 2**31-1, (pages*PAGE*HKV, W), dtype=torch.int32, device="cuda") for _ in range(self.L)]
        self.norms = [torch.ones((pages*PAGE*HKV,), dtype=torch.float16, device="cuda") for _ in range(self.L)] if norms else None
        self.maps = torch.randn((self.L, HKV, bits, D), dtype=torch.float16, device="cuda")
        self.qs = torch.randn((256, rows, HQ, D), dtype=torch.float16, device="cuda")
        self.q = self.qs[0].clone()
        self.out = torch.empty((rows, HQ, D), dtype=torch.float16, device="cuda")
        self.lens = torch.tensor(lens, dtype=torch.int32, device="cuda")
        self.args = []
        batch = Batch(num_sequences=rows, num_rows=rows, q_len=1, seq_len=buf(self.lens))
        if ragged:
            self.qstart = torch.arange(rows+1, dtype=torch.int32, device="cuda"); batch.q_start = buf(self.qstart)
        if paged:
            self.table = torch.zeros((plan_rows, max_length//PAGE), dtype=torch.int32, device="cuda")
            perm = torch.randperm(pages, device="cuda").to(torch.int32); at = 0
            for i,l in enumerate(lens):
                n = -(-l//PAGE); self.table[i,:n] = perm[at:at+n]; at += n
            batch.block_table = buf(self.table)
        for i in range(self.L):
            a = sized(DecodeArgs); a.batch = batch; a.q, a.out = buf(self.q), buf(self.out)
            a.k_cache, a.v_cache, a.codes = buf(self.k[i]), buf(self.v[i]), buf(self.codes[i])
            if norms: a.norms = buf(self.norms[i])
            a.query_map.weight[0] = buf(self.maps[i]); self.args.append(a)
        self.plan.exec.stream = stream.cuda_stream
        self.counter = None
        if has_counter:
            off = C.c_uint64(); err = Error()
            f = lib.hattn_plan_counter; f.argtypes=[C.c_void_p, C.c_int, C.POINTER(C.c_uint64), C.POINTER(Error)]
            if f(self.plan.handle, 0, C.byref(off), C.byref(err)) == 0: self.counter = off.value
    def rescored(self):
        if self.counter is None: return -1
        torch.cuda.synchronize(); return int(self.plan.workspace[self.counter:self.counter+8].view(torch.int64).item())
    def step(self, i): self.plan.run("decode", self.args[i % self.L])
    def graph_us(self, rounds=7):
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream): self.step(0)
        torch.cuda.synchronize()
        n = max(self.L, 24); g = torch.cuda.CUDAGraph()
        with torch.cuda.graph(g, stream=self.stream):
            for i in range(n): self.step(i)
        out = []
        for r in range(rounds+2):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            with torch.cuda.stream(self.stream):
                a.record(); g.replay(); b.record()
            torch.cuda.synchronize(); out.append(a.elapsed_time(b)*1000/n)
        return statistics.median(out[2:])
    def steps(self, n=300):
        """single steps, each its own queries: median, mean, p99, rescored"""
        before = self.rescored(); ev = []
        with torch.cuda.stream(self.stream):
            for i in range(n+5):
                self.q.copy_(self.qs[i % 256])
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                a.record(); self.step(i); b.record(); ev.append((a,b))
        torch.cuda.synchronize()
        t = sorted(a.elapsed_time(b)*1000 for a,b in ev[5:])
        return dict(median=round(statistics.median(t),1), mean=round(statistics.mean(t),1), p99=round(t[int(len(t)*.99)],1), rescored=self.rescored()-before, tasks=(n+5)*HKV*self.lens.numel())
    def free(self):
        lib.hattn_plan_destroy(self.plan.handle); self.__dict__.clear(); torch.cuda.empty_cache()
S = torch.cuda.Stream()
def report(name, **kw): print(json.dumps(dict(case=name, **kw)), flush=True)
def runs(R):
    def make(L, n, W):
        out = []
        for _ in range(L):
            base = torch.randint(-2**31, 2**31-1, (n//64//HKV//max(1, R//64) if R>=64 else 1, 1), dtype=torch.int32, device="cuda")
            # contiguous caches only: layout page(=sequence), head, slot; keys of a head are neighbours
            b = torch.randint(-2**31, 2**31-1, (n//R, W), dtype=torch.int32, device="cuda").repeat_interleave(R, 0)
            f = torch.randint(-2**31, 2**31-1, (n, W), dtype=torch.int32, device="cuda")
            for _ in range(3): f &= torch.randint(-2**31, 2**31-1, (n, W), dtype=torch.int32, device="cuda")
            out.append(b ^ f)
        return out
    return make
if "plans" in parts:
    for n in (131072, 32768, 8192, 1024):
        c = Case(1, [n], max_length=max(n,2048*1), stream=S); report("exact1 %d" % n, us=round(c.graph_us(),1)); c.free()
    for P in (1, 8, 64, 256):
        for live in (1, 4):
            if live > P: continue
            for n in (131072, 32768, 8192, 1024):
                for padded in (False, True):
                    if padded and P == live: continue
                    c = Case(P, [n]*live, launched=P if padded else None, stream=S)
                    report("plan%d live%d %d%s" % (P, live, n, " padded" if padded else ""), us=round(c.graph_us(),1), ws=c.plan.exec.workspace_size>>20); c.free()
if "exact4" in parts:
    for n in (131072, 32768, 8192, 1024):
        c = Case(4, [n]*4, max_length=max(n,2048), stream=S); report("exact4 %d" % n, us=round(c.graph_us(),1)); c.free()
if "mixed" in parts:
    random.seed(1); lens = [int(2**random.uniform(10, 17)) for _ in range(64)]
    for ragged in (False, True):
        c = Case(64, lens, stream=S, ragged=ragged, layers=3); us = c.graph_us()
        byts = sum(lens)*HKV*16 + sum(min(2048,l) for l in lens)*HKV*D*4
        report("mixed64%s" % (" ragged" if ragged else ""), us=round(us,1), floor=round(sum(lens)*HKV*16/4.66e6 + sum(min(2048,l) for l in lens)*HKV*D*4/3.9e6,1)); c.free()
if "keys" in parts:
    for shape in ([8,131072,2048],[8,32768,512],[1,131072,2048]):
        for R in (1,4,16,64,256):
            c = Case(shape[0], [shape[1]]*shape[0], max_length=shape[1], k=shape[2], layers=3, paged=False, codes=runs(R) if R>1 else None, stream=S)
            report("keys B%d n%d R%d" % (shape[0], shape[1], R), **c.steps()); c.free()
if "many" in parts: # 10^5 tasks
    for R in (1,16,64):
        c = Case(8, [131072]*8, k=2048, layers=3, paged=False, codes=runs(R) if R>1 else None, stream=S)
        report("tasks R%d" % R, **c.steps(1600)); c.free()
if "bad" in parts:
    c = Case(8, [131072]*8, k=2048, layers=3, paged=False, stream=S)
    report("base", **c.steps(60))
    c.qs[:,0] = float("nan"); report("nan hamming", **c.steps(60)); c.free()
    c = Case(8, [131072]*8, k=2048, layers=3, paged=False, weighted=True, stream=S)
    report("base weighted", **c.steps(60)); c.qs[:,0] = float("nan"); report("nan weighted", **c.steps(60)); c.free()
    c = Case(8, [131072]*8, k=2048, layers=3, paged=False, weighted=True, norms=True, stream=S)
    report("base norms", **c.steps(60)); c.norms[0][5] = c.norms[1][5] = c.norms[2][5] = 30000.; report("outlier norm", **c.steps(60))
    c.qs[:,0] = float("nan"); report("nan norms", **c.steps(60)); c.free()
    same = lambda L,n,W: [torch.randint(-2**31,2**31-1,(1,W),dtype=torch.int32,device="cuda").expand(n,W).contiguous() for _ in range(L)]
    c = Case(8, [131072]*8, k=2048, layers=3, paged=False, codes=same, stream=S); report("all ties", **c.steps(60)); c.free()
    c = Case(8, [131072]*8, k=2048, layers=3, paged=False, codes=same, norms=True, weighted=True, stream=S); report("all ties norms", **c.steps(60)); c.free()
    # defeats the sample: most keys that are sampled are the best ones
    def evil(L, n, W):
        import numpy as np
        out = []
        nk = 131072; pos = set()
        spread = nk//(8*8*16)//1
        keys = torch.zeros(nk, dtype=torch.bool)
        for u in range(8):
            for run in range(8*16):
                some = ((run*0x9e3779b1 & 0xffffffff)*(spread-2+1)) >> 32
                for l in range(2):
                    p = run*spread + some + l + u*8*16*spread
                    if p < nk: keys[p] = True
        idx = keys.nonzero()[:,0].cuda()
        idx = idx[torch.randperm(len(idx), device="cuda")[:1000]]
        for _ in range(L):
            t = torch.randint(-2**31,2**31-1,(n,W),dtype=torch.int32,device="cuda").view(-1, nk, W)
            best = torch.randint(-2**31,2**31-1,(t.shape[0],1,W),dtype=torch.int32,device="cuda")
            t[:, idx] = best
            out.append(t.reshape(n, W))
        return out
    c = Case(8, [131072]*8, k=2048, layers=3, paged=False, codes=evil, stream=S); report("evil", **c.steps(200)); c.free()
