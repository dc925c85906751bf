# SPDX-License-Identifier: Apache-2.0
"""The attention implementation in tiny random models: dense where the budget covers all, else what formulas select."""

import hattn.transformers as integration
import pytest
import torch
import transformers
from hattn.maps import scores, traces
from hattn.maps.train import orthogonal
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

SMALL = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, bos_token_id=1, eos_token_id=0,
             pad_token_id=0)
MODELS = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config, "mistral": transformers.MistralConfig}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def model_of(name="llama", device="cpu", attention=integration.NAME):
    torch.manual_seed(1)
    more = {"sliding_window": None} if name == "mistral" else {}
    config = MODELS[name](**SMALL, **more)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    # Random models attend to all tokens alike: selections would not matter.
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 8
    return model.to(device).eval()


def maps_of(kind="weighted", bits=64, heads=2):
    """Orthogonal maps for layers 1 and 2."""
    weight = orthogonal(heads, 32, bits, torch.Generator().manual_seed(5))
    return {layer: traces.LayerMap("%s%d" % (kind, bits), [weight, torch.zeros(heads, bits)], [weight], kind)
            for layer in (1, 2)}


def cache_of(model, budget=1000, **more):
    return integration.HashCache(model.config, more.pop("maps", maps_of()), budget, **more)


def prompt(sequences=1, length=40, device="cpu", seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 64, (sequences, length), generator=generator).to(device)


def padded(device="cpu"):
    """Three prompts of 40, 33 and 21 tokens, padded on the left."""
    ids, mask = prompt(3, device=device), torch.ones((3, 40), dtype=torch.long, device=device)
    for row, pad in ((1, 7), (2, 19)):
        ids[row, :pad], mask[row, :pad] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


WAYS = {
    "one": lambda device: {"input_ids": prompt(device=device)},
    "batch": lambda device: {"input_ids": prompt(3, device=device)},
    "padded": padded,
    "beams": lambda device: {"input_ids": prompt(2, device=device), "num_beams": 3},
    "padded beams": lambda device: padded(device) | {"num_beams": 2},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_generate_with_a_budget_for_all_is_sdpas(name, way, device):
    arguments = WAYS[way](device) | dict(max_new_tokens=12, do_sample=False, min_new_tokens=12)
    expected = model_of(name, device, "sdpa").generate(**arguments)
    model = model_of(name, device)
    torch.testing.assert_close(model.generate(**arguments, past_key_values=cache_of(model)), expected)


def steps(model, ids, cache, prefill, mask=None):
    """Logits of one token after the other, after a prompt."""
    with torch.no_grad():
        def step(part, end):
            more = {} if mask is None else {"attention_mask": mask[:, :end]}
            return model(part, past_key_values=cache, **more).logits[:, -1]
        step(ids[:, :prefill], prefill)
        return torch.stack([step(ids[:, i:i + 1], i + 1) for i in range(prefill, ids.shape[1])], 1)


def by_formula(maps, budget, floor=None):
    """An attention that masks what the scores of hattn.maps do not select."""
    def attend(module, query, key, value, mask, scaling=None, **more):
        by = maps.get(module.layer_idx)
        if query.shape[2] != 1 or by is None:
            return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **more)
        n, kept = key.shape[2], torch.zeros((query.shape[0], query.shape[1], 1, key.shape[2]), dtype=torch.bool)
        for b in range(query.shape[0]):
            first = 0 if mask is None else int(n - mask[b].sum())
            k = key[b, :, first:].transpose(0, 1)
            trace = traces.Trace("", query[b].transpose(0, 1), torch.tensor([n - first - 1]), k, k, 1.0, [])
            ranking = scores.Ranking(trace, by)
            top = scores.select(ranking.scores(slice(None), torch.empty(0)),
                                torch.ones((1, 1, n - first), dtype=torch.bool), budget, floor,
                                ranking.steps(slice(None)) if floor else None)
            kept[b, :, 0, first:] = top[0].repeat_interleave(query.shape[1] // len(top[0]), 0)
        return sdpa_attention_forward(module, query, key, value, kept, scaling=scaling)

    AttentionInterface.register("by_formula", attend)
    AttentionMaskInterface.register("by_formula", sdpa_mask)


@pytest.mark.parametrize("way", ["one", "batch", "padded"])
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("kind", ["weighted", "hamming"])
def test_selections_are_the_formulas(kind, heads, way):
    """Maps of KV heads and of query heads."""
    arguments, maps = WAYS[way]("cpu"), maps_of(kind, heads=heads)
    ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    by_formula(maps, 8)
    expected = steps(model_of(attention="by_formula"), ids, DynamicCache(), 30, mask)
    model = model_of()
    ours = steps(model, ids, cache_of(model, 8, maps=maps), 30, mask)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    dense = steps(model, ids, cache_of(model), 30, mask)
    assert float((ours - dense).abs().max()) > 1e-2, "the budget changes nothing: the test sees nothing"


@pytest.mark.parametrize("way", ["one", "padded"])
@pytest.mark.parametrize("kind,heads", [("weighted", 2), ("hamming", 4)])
def test_floors_are_the_formulas(kind, heads, way):
    arguments, maps, floor = WAYS[way]("cpu"), maps_of(kind, heads=heads), scores.Floor(0.04, 3)
    for by in maps.values():
        by.slopes = {kind: torch.linspace(0.05, 0.1, heads)}
    ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    by_formula(maps, 16, floor)
    expected = steps(model_of(attention="by_formula"), ids, DynamicCache(), 30, mask)
    model, cache = model_of(), cache_of(model_of(), 16, maps=maps, min_probability=0.04, min_k=3)
    cache.counts = []
    torch.testing.assert_close(steps(model, ids, cache, 30, mask), expected, rtol=0, atol=1e-4)
    counts = torch.cat([one.flatten() for one in cache.counts])
    assert len(cache.counts) == 2 * 10 and counts.shape == (20 * len(ids) * heads,)
    assert counts.min() >= 3 and counts.max() <= 16 and counts.unique().numel() > 3, "the floor does nothing"
    fixed = steps(model, ids, cache_of(model, 16, maps=maps), 30, mask)
    assert float((expected - fixed).abs().max()) > 1e-2


def test_floors_come_and_go():
    """A cache may change how it selects between steps; short sequences are dense but for what is below the floor."""
    maps = maps_of()
    for by in maps.values():
        by.slopes = {"weighted": torch.tensor([0.05, 0.1])}
    model, ids = model_of(), prompt(length=40)
    cache = cache_of(model, 1000, maps=maps, min_probability=0.04, min_k=3)
    first = steps(model, ids, cache, 30)
    cache.crop(-10)
    cache.select(1000)
    with torch.no_grad():
        dense = torch.stack([model(ids[:, i:i + 1], past_key_values=cache).logits[:, -1] for i in range(30, 40)], 1)
    torch.testing.assert_close(dense, steps(model, ids, cache_of(model), 30), rtol=0, atol=0)
    assert float((first - dense).abs().max()) > 1e-2


def test_cropped_tokens_are_forgotten():
    model, ids = model_of(), prompt(2, 60)
    cache = cache_of(model, 8)
    expected = steps(model, ids[:, :40], cache, 30)
    with torch.no_grad():
        for i in range(40, 50):
            model(ids[:, i:i + 1], past_key_values=cache)
    cache.crop(-20)
    assert cache.get_seq_length() == 30
    with torch.no_grad():
        again = [model(ids[:, i:i + 1], past_key_values=cache).logits[:, -1] for i in range(30, 40)]
    torch.testing.assert_close(torch.stack(again, 1), expected, rtol=0, atol=0)


def test_layers_below_the_first_stay_dense_and_room_is_made_once():
    model = model_of()
    cache = cache_of(model, 8, first_layer=2, capacity=500)
    steps(model, prompt(length=300), cache, 290)
    assert [layer.codes_buffer is not None for layer in cache.layers] == [False, False, True]
    assert cache.layers[0].key_buffer.shape[1] == 500 and cache.layers[2].codes.shape[1] == 500
    grown, roomy = cache_of(model), cache_of(model, capacity=500)
    for cache in (grown, roomy):
        steps(model, prompt(length=400), cache, 20)  # past the first room
    assert grown.layers[2].codes.shape[1] > 400
    assert torch.equal(grown.layers[2].codes[:, :400], roomy.layers[2].codes[:, :400])


@pytest.mark.parametrize("tail", [0, 0.5])
def test_a_layer_may_leave_between_update_and_attention(tail, monkeypatch):
    """As offloading does it, which needs a device; here other memory stands for the host's."""
    model, ids, maps = model_of(), prompt(length=60), maps_of()
    for by in maps.values():
        by.slopes = {"weighted": torch.tensor([0.05, 0.1])}
    expected = steps(model, ids, cache_of(model, 8, maps=maps, tail=tail), 30)
    update = integration.HashCache.update

    away, names = {}, ("key_buffer", "value_buffer", "codes_buffer")

    def leaving(cache, key, value, number, *arguments, **more):
        layer = cache.layers[number]
        for name, buffer in away.pop(number, {}).items():
            setattr(layer, name, buffer)
        found = update(cache, key, value, number, *arguments, **more)
        away[number] = {name: getattr(layer, name) for name in names}
        layer._each(lambda buffer, dim: torch.zeros_like(buffer))
        return found

    monkeypatch.setattr(integration.HashCache, "update", leaving)
    found = steps(model, ids, cache_of(model, 8, maps=maps, tail=tail), 30)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("tail", [0, 0.5])
def test_offloading(tail):
    model, ids, maps = model_of(device="cuda"), prompt(length=60, device="cuda"), maps_of()
    for by in maps.values():
        by.slopes = {"weighted": torch.tensor([0.05, 0.1])}
    more = dict(maps=maps, tail=tail)
    torch.testing.assert_close(steps(model, ids, cache_of(model, 8, offloading=True, **more), 30),
                               steps(model, ids, cache_of(model, 8, **more), 30))


def test_maps_from_a_folder(tmp_path):
    model = model_of()
    for layer, by in maps_of().items():
        traces.save(str(tmp_path / ("layer%d.safetensors" % layer)), {}, [by.to("cpu", torch.float16)])
    cache = cache_of(model, 8, maps=tmp_path)
    assert [layer.by and layer.by.name for layer in cache.layers] == [None, "weighted64", "weighted64"]
    steps(model, prompt(), cache, 30)


def test_refusals(tmp_path):
    model = model_of()
    with pytest.raises(ValueError, match="has no layer"):
        cache_of(model, maps=tmp_path)
    with pytest.raises(ValueError, match=r"maps are of layers \[7\]"):
        cache_of(model, maps={7: maps_of()[1]})
    with pytest.raises(ValueError, match="weighted64 has no slopes of weighted scores.*hattn.maps calibrate fits them"):
        cache_of(model, min_probability=0.01)
    cache_of(model, min_probability=0.01, first_layer=3)  # all layers are dense
    wrong = orthogonal(2, 64, 32, torch.Generator())
    with pytest.raises(ValueError, match="of 2 heads and 64 dimensions, the layer of 2 and 32"):
        steps(model, prompt(), cache_of(model, maps={1: traces.LayerMap("x", [wrong], [wrong], "hamming")}), 30)
