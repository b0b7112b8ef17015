import json

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sovl_daemon.models import ConversionError, ignore_progress
from sovl_daemon.models.checkpoint import read_header
from sovl_daemon.models.convert import convert, survives_half
from sovl_daemon.models.unusable import require_folder
from tests import tiny_models

PROMPT = torch.tensor([[5, 17, 120, 33]])
FAMILIES = [tiny_models.gpt2, tiny_models.llama, lambda: tiny_models.llama(tied=True)]


def converted(checkpoint, target):
    return convert(checkpoint, read_header(checkpoint), target, ignore_progress)


def logits_of(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model(PROMPT).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_becomes_float16_and_keeps_its_logits(family, tmp_path):
    model = family()
    source = tiny_models.save(model, tmp_path / "source")
    result = converted(source, tmp_path / "target")
    assert result.dtype == "float16"
    assert result.parameters == model.num_parameters()
    stored = load_file(tmp_path / "target" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    torch.testing.assert_close(
        logits_of(tmp_path / "target"), model(PROMPT).logits, atol=2e-3, rtol=2e-3
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_16_bit_source_is_kept_bit_by_bit(family, dtype, tmp_path):
    source = tiny_models.save(family().to(dtype), tmp_path / "source")
    result = converted(source, tmp_path / "target")
    assert result.dtype == str(dtype).removeprefix("torch.")
    assert torch.equal(logits_of(tmp_path / "target"), logits_of(source))


@pytest.mark.parametrize("family", [tiny_models.gpt2, lambda: tiny_models.llama(tied=True)])
def test_tied_weights_stay_tied(family, tmp_path):
    source = tiny_models.save(family(), tmp_path / "source")
    converted(source, tmp_path / "target")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_model_in_shards_is_read(tmp_path):
    model, source = tiny_models.llama(), tmp_path / "source"
    tiny_models.save(model, source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="30KB")
    assert not (source / "model.safetensors").exists()
    assert converted(source, tmp_path / "target").parameters == model.num_parameters()
    torch.testing.assert_close(
        logits_of(tmp_path / "target"), model(PROMPT).logits, atol=2e-3, rtol=2e-3
    )


def test_weights_beyond_float16_become_bfloat16(tmp_path):
    model = tiny_models.llama()
    model.model.norm.weight.data[0] = 70_000.0
    source = tiny_models.save(model, tmp_path / "source")
    assert converted(source, tmp_path / "target").dtype == "bfloat16"


@pytest.mark.parametrize(
    ("weight", "survives"),
    [
        (torch.tensor([0.0, 0.0]), True),
        (torch.tensor([]), True),
        (torch.linspace(-3, 3, 101), True),
        (torch.tensor([65_503.0]), True),
        (torch.tensor([65_504.0]), False),
        (torch.full((64,), 3e-8), False),  # below float16's smallest number
        (torch.full((64,), 1.03e-6), False),  # subnormal: two digits are left
        (torch.tensor([1.0, 1e-9]), True),  # a vanishing part of the whole
    ],
)
def test_what_float16_can_hold(weight, survives):
    assert survives_half(weight) is survives


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(value, dtype, tmp_path):
    model = tiny_models.gpt2().to(dtype)
    model.transformer.h[1].mlp.c_fc.weight.data[3, 3] = value
    source = tiny_models.save(model, tmp_path / "source")
    with pytest.raises(ConversionError, match=r"h\.1\.mlp\.c_fc\.weight holds values that are not"):
        converted(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_missing_weights_are_refused_rather_than_made_up(tmp_path):
    source = tiny_models.save(tiny_models.llama(), tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ConversionError, match=r"lacks 1 weights .* is model\.layers\.1\.mlp\.up_proj"
    ):
        converted(source, tmp_path / "target")


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path):
    model = tiny_models.llama()
    model.resize_token_embeddings(200)
    source = tiny_models.save(model, tmp_path / "source")
    with pytest.raises(ConversionError, match="do not belong together"):
        converted(source, tmp_path / "target")


def test_pickled_weights_are_never_loaded(tmp_path):
    source = tiny_models.save(tiny_models.gpt2(), tmp_path / "source")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(ConversionError, match=r"no model\.safetensors"):
        converted(source, tmp_path / "target")


def test_a_quantised_folder_is_refused(tmp_path):
    source = tiny_models.save(tiny_models.gpt2(), tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=r"is quantised \(awq\)"):
        require_folder(source, "source")


def test_a_configuration_with_a_wrong_type_is_one_line(tmp_path):
    source = tiny_models.save(tiny_models.gpt2(), tmp_path / "source")
    (source / "config.json").write_text('{"architectures": {"GPT2LMHeadModel": 1}}')
    with pytest.raises(ConversionError, match=r"config\.json is damaged, architectures") as caught:
        require_folder(source, "source")
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_one_line(tmp_path):
    source = tiny_models.save(tiny_models.gpt2(), tmp_path / "source")
    (source / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ConversionError, match="source cannot be converted") as caught:
        converted(source, tmp_path / "target")
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    source = tiny_models.save(tiny_models.gpt2(), tmp_path / "source")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (source / "config.json").write_text(json.dumps(config))
    (source / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConversionError):
        converted(source, tmp_path / "target")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 40, b"rubbish" * 9])
def test_a_damaged_gguf_is_refused(content, tmp_path):
    (tmp_path / "mind.gguf").write_bytes(content)
    with pytest.raises(ConversionError, match=r"mind\.gguf cannot be read") as caught:
        read_header(tmp_path / "mind.gguf")
    assert "\n" not in str(caught.value)


def test_generation_stops_at_the_tokenizer_s_end(tmp_path):
    model = tiny_models.llama()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    converted(tiny_models.save(model, tmp_path / "source"), tmp_path / "target")
    generation = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 1


def test_a_generation_config_that_contradicts_itself_is_mended(tmp_path):
    source = tiny_models.save(tiny_models.llama(), tmp_path / "source")
    contradiction = {"do_sample": False, "temperature": 0.5, "eos_token_id": 1}
    (source / "generation_config.json").write_text(json.dumps(contradiction))
    converted(source, tmp_path / "target")
    generation = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["temperature"]) == (True, 0.5)


@pytest.fixture(scope="module")
def gguf_target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    result = converted(tiny_models.save_gguf(folder / "mind.gguf"), folder / "target")
    assert result.dtype == "float16"
    return folder / "target"


def test_gguf_weights_are_the_file_s(gguf_target):
    weights, expected = load_file(gguf_target / "model.safetensors"), tiny_models.gguf_tensors()
    norm, embedding = expected["output_norm.weight"], expected["token_embd.weight"]
    assert torch.equal(weights["model.norm.weight"], torch.from_numpy(norm).half())
    torch.testing.assert_close(
        weights["model.embed_tokens.weight"].float(), torch.from_numpy(embedding), atol=2e-3, rtol=0
    )
    assert "quantization_config" not in json.loads((gguf_target / "config.json").read_text())


def test_gguf_logits_are_finite(gguf_target):
    model = AutoModelForCausalLM.from_pretrained(gguf_target, dtype=torch.float32)
    assert model(PROMPT).logits.isfinite().all()


def test_gguf_tokenizer_came_along(gguf_target):
    tokenizer = AutoTokenizer.from_pretrained(gguf_target)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n"
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [1]
    assert tokenizer.model_max_length == 64
    assert tokenizer.decode(tokenizer.encode("été 12")) == "été 12"


def test_gguf_no_token_is_beyond_the_embeddings(gguf_target):
    tokenizer = AutoTokenizer.from_pretrained(gguf_target)
    assert len(tokenizer) == tiny_models.VOCABULARY
    assert max(tokenizer.encode("<|endoftext|>")) < tiny_models.VOCABULARY


def test_gguf_digits_are_cut_off_first(gguf_target):
    tokenizer = AutoTokenizer.from_pretrained(gguf_target)
    assert tokenizer.tokenize("\n\n1") == ["ĊĊ", "1"]


def test_the_header_of_a_gguf(tmp_path):
    header = read_header(tiny_models.save_gguf(tmp_path / "mind.gguf"))
    assert header.parameters == sum(tensor.size for tensor in tiny_models.gguf_tensors().values())
    assert header.matrix_dtypes == {"Q8_0"}
    assert header.half_dtype is None
    assert header.pre_tokenizer == "smollm"


@pytest.mark.parametrize(("kind", "dtype"), [("F16", "float16"), ("BF16", "bfloat16")])
def test_a_16_bit_gguf_keeps_its_type(kind, dtype, tmp_path):
    gguf = tiny_models.save_gguf(tmp_path / "mind.gguf", GGMLQuantizationType[kind])
    assert converted(gguf, tmp_path / "target").dtype == dtype
    stored = load_file(tmp_path / "target" / "model.safetensors")["model.embed_tokens.weight"]
    expected = torch.from_numpy(tiny_models.gguf_tensors()["token_embd.weight"])
    assert torch.equal(stored, expected.to(getattr(torch, dtype)))
