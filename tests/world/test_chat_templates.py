"""Chat templates as models come with them: what one cannot take is brought into its form."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovl_daemon.engine.errors import TemplateError
from sovl_daemon.engine.text.chat import ChatTokenizer
from sovl_daemon.engine.text.chat_template import template_in
from sovl_daemon.engine.text.message import Message
from sovl_daemon.models import ModelStore
from sovl_daemon.testing import PATIENCE_S, Daemon, running
from tests import templates, tiny_models
from tests.templates import TEMPLATES
from tests.world import situation

SYSTEM = Message("system", "Be kind.")
QUESTION = Message("assistant", "Who are you?")
TALK = [Message("user", "Ann."), Message("assistant", "Hello Ann."), Message("user", "Bye.")]


def chat(name: str) -> ChatTokenizer:
    return ChatTokenizer(templates.tokenizer(TEMPLATES[name]))


def written(template: ChatTokenizer, said: list[Message]) -> str:
    return str(template.tokenizer.decode(template.encode(said, 10_000)))


@situation(
    "EricLBuehler/mistral.rs#45",
    "A model whose template refuses the system role is told the system prompt some other way.",
)
@pytest.mark.parametrize("name", ["gemma", "mistral first"])
def test_a_system_prompt_that_the_template_refuses(name: str) -> None:
    made = chat(name)
    assert written(made, [SYSTEM, *TALK]).index("Be kind.\n\nAnn.") >= 0
    assert "the system prompt stands in the first user message" in made.adaptations


@situation("own", "What needs no adapting is token by token what transformers would write.")
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_are_those_of_transformers(name: str, special: bool) -> None:
    made = ChatTokenizer(templates.tokenizer(TEMPLATES[name], special=special, bos=True))
    needs = [] if name.startswith("mistral late") else made.adaptations
    said = [SYSTEM, *TALK]
    if not needs:
        turns = [{"role": each.role, "content": each.content} for each in said]
        theirs = made.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, enable_thinking=False
        )
        assert made.encode(said, 10_000) == theirs["input_ids"]


@situation("own", "A conversation of a hundred turns is laid out like one of two.")
def test_a_long_conversation() -> None:
    made = chat("chatml")
    said = [SYSTEM, QUESTION, *(each for _ in range(50) for each in TALK[:2]), TALK[2]]
    text = written(made, said)
    assert (text.count("Ann.<"), text.count("Hello Ann.<")) == (100, 50)
    assert text.endswith("Bye.<|im_end|>\n<|im_start|>assistant\n")


@situation("own", "A conversation that SOVL began goes on with every template.")
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_question_of_its_own_begins_a_conversation(name: str) -> None:
    for said in ([QUESTION, *TALK], [SYSTEM, QUESTION, *TALK]):
        text = written(chat(name), said)
        assert all(each.content in text for each in said)


@situation(
    "mcowger/generic-copilot#43",
    "Where turns must alternate, two messages of one side become one turn.",
)
def test_two_messages_of_one_side() -> None:
    said = [Message("user", "One."), Message("user", "Two."), QUESTION, TALK[0]]
    assert "[INST] One.\n\nTwo. [/INST]Who are you?</s>" in written(chat("mistral first"), said)


@situation("own", "A template that reads content as typed parts alone is given typed parts.")
def test_content_in_parts() -> None:
    assert "<|im_start|>user\nAnn.<|im_end|>" in written(chat("parts"), TALK)


@situation(
    "abetlen/llama-cpp-python#1501", "A prompt begins with one token for the beginning, never two."
)
@pytest.mark.parametrize("name", ["llama 3", "gemma", None])
def test_one_token_for_the_beginning(name: str | None) -> None:
    made = ChatTokenizer(templates.tokenizer(name and TEMPLATES[name], bos=True))
    begin = made.tokenizer.bos_token_id
    ids = made.encode([SYSTEM, *TALK], 10_000)
    assert (ids[0], ids.count(begin)) == (begin, 1)


@situation(
    "marin-community/marin#7179", "A model without a template is talked with in a written dialogue."
)
def test_no_template_at_all() -> None:
    made = ChatTokenizer(templates.tokenizer(None))
    assert written(made, TALK) == "User: Ann.\nAssistant: Hello Ann.\nUser: Bye.\nAssistant:"
    assert "no chat template" in made.adaptations[0]


@situation("own", "A template that forgets to begin the answer is helped by how past ones begin.")
@pytest.mark.parametrize("name", ["chatml without generation prompt", "zephyr"])
def test_no_generation_prompt(name: str) -> None:
    assert written(chat(name), TALK).endswith("assistant\n" if "chatml" in name else "tant|>\n")


@situation("own", "An answer is no thought: the block that a template opens is closed.")
@pytest.mark.parametrize("name", ["deepseek", "qwen 3"])
def test_a_thought_is_not_the_answer(name: str) -> None:
    past = Message("assistant", "<think>Ann, hm</think>Hello Ann.")
    text = written(chat(name), [TALK[0], past, TALK[2]])
    assert text.endswith("<think>\n\n</think>\n\n")
    assert "hm" not in text
    assert "Hello Ann." in text


@situation("own", "Of several named templates the default is taken, or one that can be used.")
def test_named_templates() -> None:
    both = {"tool_use": TEMPLATES["gemma"], "default": TEMPLATES["chatml"]}
    assert "<|im_start|>" in written(ChatTokenizer(templates.tokenizer(both)), TALK)
    lame = {"default": templates.USELESS["syntax"], "rag": TEMPLATES["gemma"]}
    made = ChatTokenizer(templates.tokenizer(lame))
    assert "<start_of_turn>" in written(made, TALK)
    assert made.adaptations[0] == "its chat template 'rag' is used"


@situation("own", "A template never learns what is said, so no message can steer it.")
def test_a_message_does_not_steer_the_template() -> None:
    text = "{% for m in messages %}{% if 'obey' in m.content %}<|im_start|>system\n{% endif %}"
    text += "{{ m.role + m.content }}<|im_end|>{% endfor %}"
    made = ChatTokenizer(templates.tokenizer(text))
    assert "<|im_start|>" not in written(made, [Message("user", "obey")])


@situation("own", "A template that never ends is refused in seconds, and nothing hangs.")
def test_an_endless_template() -> None:
    with pytest.raises(TemplateError, match="it takes over 3 s of processor time"):
        ChatTokenizer(templates.tokenizer(templates.ENDLESS))


@situation("own", "Where somebody happens to be, nothing is imported to read a template.")
def test_a_folder_with_files_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jinja2.py", "json.py", "resource.py"):
        (tmp_path / name).write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert written(ChatTokenizer(templates.tokenizer(TEMPLATES["phi"] + "{# here #}")), TALK)


@situation("own", "A template that loses what is said is refused at load, with what to change.")
@pytest.mark.parametrize("name", templates.USELESS)
def test_a_useless_template(name: str, tmp_path: Path) -> None:
    templates.tokenizer(templates.USELESS[name]).save_pretrained(tmp_path)
    with pytest.raises(TemplateError, match=r"cannot be used \(.*\): correct it, or choose ano"):
        ChatTokenizer.load(tmp_path)


@situation("own", "What is done for a template can be read off its folder, without its weights.")
@pytest.mark.parametrize("name", [*TEMPLATES, None])
def test_the_same_is_found_in_the_files(name: str | None, tmp_path: Path) -> None:
    templates.tokenizer(name and TEMPLATES[name]).save_pretrained(tmp_path)
    assert template_in(tmp_path).adaptations == ChatTokenizer.load(tmp_path).adaptations


@situation("own", "Templates in the old file and in a list of names are found, too.")
def test_older_files(tmp_path: Path) -> None:
    named = [{"name": "default", "template": TEMPLATES["gemma"]}]
    config = {"chat_template": named, "bos_token": {"content": "<b>"}, "eos_token": "</b>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert not template_in(tmp_path).manners.system
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(TemplateError, match="its files cannot be read"):
        template_in(tmp_path)


@situation("own", "A scaffold is read with, never talked with: its template may be of no use.")
def test_a_scaffold_needs_no_template(tmp_path: Path) -> None:
    from sovl_daemon.engine.fusion.lora import LoraOptions
    from sovl_daemon.engine.fusion.scaffold import FusionOptions, load_scaffold
    from sovl_daemon.engine.model.model import load_model

    base = tiny_models.save(tiny_models.llama(), tmp_path / "base")
    scaffold = tiny_models.save(tiny_models.llama(1), tmp_path / "scaffold")
    (scaffold / "chat_template.jinja").write_text("{% if %}")
    options = FusionOptions(lora=LoraOptions(rank=2, alpha=2, dropout=0.0))
    load_scaffold(scaffold, options, load_model(base), ChatTokenizer.load(base))


@situation("own", "A template that is kept with what a model sees by is found by a pull.")
def test_the_template_of_a_processor(tmp_path: Path) -> None:
    folder = tiny_models.save(tiny_models.llama(), tmp_path / "seeing")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATES["chatml"]}))
    store = ModelStore(tmp_path / "store")
    assert template_in(store.path(store.pull(str(folder)).name)).adaptations == ()


@pytest.mark.long
@situation(
    "infiniflow/ragflow#11021",
    "With the shipped settings a daemon answers by a template that takes no system prompt.",
)
def test_a_daemon_with_a_strict_template(runtime: Path) -> None:
    with running(runtime, **_with_template(runtime, TEMPLATES["gemma"])) as daemon:
        with daemon.client() as client:
            first = client.ask("generate", prompt="Hello.", max_tokens=4)
            talk = first["conversation"]
            client.ask("generate", prompt="And now?", conversation=talk, max_tokens=4)
        assert "the system prompt stands in the first user" in daemon.sovl("status").stdout
        assert "system prompt" in daemon.logged("model.loaded")["chat"]


@pytest.mark.long
@situation("own", "A daemon with a template of no use ends at once, with one line and the key.")
def test_a_daemon_with_a_useless_template(runtime: Path) -> None:
    settings = _with_template(runtime, templates.USELESS["last only"])
    daemon = Daemon(runtime, **settings).start()
    try:
        assert daemon.process.wait(PATIENCE_S) == 78
    finally:
        daemon.kill()
    said = daemon.output()
    assert "core_config.base_model_name: the chat template in" in said
    assert "it leaves out the user's message" in said
    assert "Traceback" not in said


def _with_template(folder: Path, template: str) -> dict[str, Any]:
    settings = tiny_models.settings(folder, positions=256)
    del settings["generation.system_prompt"]
    model = Path(settings["core_config.base_model_name"])
    made = templates.tokenizer(template)
    made.save_pretrained(model)
    return settings
