"""Chat templates: the usual output or a typed refusal, in bounded time and memory."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizer_sources import Source, byte_vocabulary, random_texts

from edgesparse.errors import TemplateError
from edgesparse.tokenizer import load_tokenizer
from edgesparse.tokenizer.default import BUILT_IN
from edgesparse.tokenizer.fuel import Limits
from edgesparse.tokenizer.template import ChatTemplate

LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>' ~ call.arguments | tojson(indent=2) ~ '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
MACROS = """{% macro turn(m, depth=0) -%}
{{ m.role | upper }}{{ '-' * depth }}: {{ m.content | replace('<', '&') | trim | indent(2) }}
{% if depth < 3 and loop is not defined %}{{ turn(m, depth + 1) }}{% endif %}
{%- endmacro %}
{% for m in messages | selectattr('role', 'in', ['user', 'assistant']) %}
{% if loop.index > 3 %}{% break %}{% endif %}
{{ turn(m) }}{{ loop.cycle('a', 'b') }}{{ m.get('name', 'none') }}
{{ [m.role, loop.index] | join(',') }}
{% generation %}{{ (m.content ~ loop.index) | length }}{% endgeneration %}
{% endfor %}
{{ messages | map(attribute='role') | unique | list | join(' ') }}{{ messages[-1].items() | list }}
{% set text %}{% for i in range(3) %}{{ i ** 2 }};{% endfor %}{% endset %}{{ text }}
{% if tools is none and x is not defined %}{{ 7 // 2 }} {{ 7 % 4 }} {{ 3 is odd }}{% endif %}
{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }}{% endfor %}
"""
FAMILIES = {"llama2": LLAMA2, "llama3": LLAMA3, "qwen": QWEN, "macros": MACROS, **BUILT_IN}


def reference(source: str, variables: dict[str, Any]) -> str:
    """Render with plain Jinja in the settings that chat templates expect."""

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = tojson
    for tag in ("generation", "endgeneration"):
        source = source.replace("{% " + tag + " %}\n", "").replace("{% " + tag + " %}", "")
    return environment.from_string(source).render(**variables)


def conversations() -> list[dict[str, Any]]:
    texts = random_texts(40, seed=21)
    found: list[dict[str, Any]] = []
    for i in range(8):
        roles = [["user", "assistant"][k % 2] for k in range(1 + i % 4)]
        messages: list[dict[str, Any]] = [
            {"role": role, "content": texts[5 * i + k] + "<a>"} for k, role in enumerate(roles)
        ]
        if i % 2:
            messages.insert(0, {"role": "system", "content": "Be 'brief' <b> & exact.\n"})
        if len(roles) > 1:
            messages[-1]["tool_calls"] = [{"arguments": {"q": "é", "n": [1, 2.5, None]}}]
            messages[-1]["content"] += "<think>x</think>\n\nyes"
        found.append(
            {
                "messages": messages,
                "add_generation_prompt": i % 3 > 0,
                "bos_token": "<s>",
                "eos_token": "</s>",
                "tools": [{"name": "f", "text": "ü"}] if i % 4 == 3 else None,
            }
        )
    return found


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_output_equals_jinja(family: str) -> None:
    template = ChatTemplate(FAMILIES[family])
    checked = 0
    for variables in conversations():
        assert template.render(variables) == reference(FAMILIES[family], variables)
        checked += 1
    assert checked == 8


BIG = "{% set s = 'x' * 4000000 %}"
DOUBLE = "{% set ns = namespace(a=['x']) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}"
HOSTILE = {
    # loops and recursion
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "huge range": "{% for a in range(10**9) %}{% endfor %}",
    "filtered loops": "{% for a in range(9999) %}{% for b in range(9999) if false %}"
    "{% endfor %}{% endfor %}",
    "loops over a filter": "{% set l = range(9999)|list %}{% for a in l %}"
    "{% set z = l|select('none')|list %}{% endfor %}",
    "self-calling macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "doubling macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(30) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([a, a]) }}{% endfor %}",
    "caller recursion": "{% macro m() %}{{ caller() }}{% endmacro %}"
    "{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
    "text in a loop": "{% for a in range(9999) %}" + "y" * 100_000 + "{% endfor %}",
    "text in a macro": "{% macro m() %}" + "y" * 100_000 + "{% endmacro %}"
    "{% for a in range(9999) %}{% set z = m() %}{% endfor %}",
    "text in a set block": "{% set z %}{% for a in range(9999) %}" + "y" * 9000
    + "{% endfor %}{% endset %}",
    # large values
    "string times": "{{ 'x' * 10**10 }}",
    "times string": "{{ 10**10 * 'x' }}",
    "list times": "{{ [1] * 10**10 }}",
    "power": "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "integer growth": "{% set ns = namespace(n=3) %}{% for i in range(99) %}"
    "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "percent format": "{{ '%1000000000d' % 1 }}",
    "odd format": "{{ '%1000000000d' is odd }}",
    "divisible format": "{{ '%1000000000d' is divisibleby(1) }}",
    "format method": "{{ '{:>1000000000}'.format(1) }}",
    "format map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "format item": "{{ ''['format']('x') }}",
    "center": "{{ 'x' | center(10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "expandtabs": "{{ '\\t'.expandtabs(10**9) }}",
    "indent": "{{ 'a\\nb' | indent(10**9) }}",
    "indent text": BIG + "{{ 'a\\nb' | indent(s) }}",
    "json indent": "{{ [1] | tojson(indent=10**9) }}",
    "replace method": BIG + "{{ s.replace('x', s) }}",
    "replace filter": BIG + "{{ s | replace('x', s) }}",
    "replace nothing": BIG + "{{ s.replace('', s) }}",
    "join method": BIG + "{{ s.join(range(9999) | map('string')) }}",
    "join filter": BIG + "{{ range(9999) | join(s) }}",
    "concatenation": BIG + "{{ s ~ s ~ s }}",
    "plus": BIG + "{% set ns = namespace(s=s) %}{% for i in range(99) %}"
    "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "printing": BIG + "{{ s }}{{ s }}",
    "sum of lists": "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}"
    "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "split": BIG + "{% for i in range(999) %}{% set z = s.split('x') %}{% endfor %}",
    "slices": BIG + "{% for i in range(9999) %}{% set z = s[1:] %}{% endfor %}",
    "searches": BIG + "{% for i in range(9999) %}{% set z = 'xy' in s %}{% endfor %}",
    "escapes": "{% set s = '<' * 4000000 %}{% set z = s | e %}{% set z = s | e %}",
    # lists that hold a list twice, and again
    "print shared": DOUBLE + "{% endfor %}{{ ns.a }}",
    "compare shared": DOUBLE + "{% endfor %}{{ ns.a == ns.a[0] }}",
    "json shared": DOUBLE + "{% endfor %}{{ ns.a | tojson }}",
    "concat shared": DOUBLE + "{% endfor %}{{ ns.a ~ '' }}",
    "hash shared": "{% set ns = namespace(a=(1,)) %}{% for i in range(60) %}"
    "{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ {ns.a: 1} }}",
    "get shared": "{% set ns = namespace(a=(1,)) %}{% for i in range(60) %}"
    "{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ {}[ns.a] }}{{ {}.get(ns.a) }}",
    # ways out
    "class": "{{ ''.__class__ }}",
    "class item": "{{ ''['__class__']['__mro__'] }}",
    "class filter": "{{ '' | attr('__class__') }}",
    "class by map": "{{ [''] | map(attribute='__class__') | first | string | length + x.y }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "function code": "{{ range['__func__']['__globals__'].os }}",
    "self": "{{ self._TemplateReference__context }}",
    "cycler": "{{ cycler.__init__.__globals__.os }}",
    "lipsum": "{{ lipsum() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "from import": "{% from 'os' import path %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block a %}{% endblock %}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({}) }}",
    "environment": "{{ environment.meter }}",
    "printing a function": "{{ range }}",
    "printing a method": "{{ 'x'.upper }}",
    "printing a namespace": "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "date width": "{{ strftime_now('%1000000000Y') }}",
    "unknown filter": "{{ 'a' | pprint }}",
    "unknown filter by map": "{{ ['a'] | map('pprint') | list }}",
    "unknown test": "{{ 'a' is nothing }}",
    # syntax
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep lists": "{{ " + "[" * 300 + "1" + "]" * 300 + " }}",
    "deep not": "{{ " + "not " * 3000 + "1 }}",
    "deep sum": "{{ 1" + " + 1" * 3000 + " }}",
    "deep blocks": "{% if 1 %}" * 400 + "{% endif %}" * 400,
    "deep loops": "{% for i in [1] %}" * 25 + "{% endfor %}" * 25,
    "many nodes": "{{ a }}" * 60_000 + "",
    "too large": "x" * 300_000,
    "unclosed": "{% for a in b %}",
    "garbage": "{{ %} }}",
    "raised": "{{ raise_exception('no') }}",
    "undefined call": "{{ nothing() }}",
    "type error": "{{ 1 + 'a' }}",
    "division": "{{ 1 // 0 }}",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_templates_are_refused_quickly(name: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            ChatTemplate(HOSTILE[name]).render({"messages": messages})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 96 << 20


def test_rendering_time_is_bounded_by_the_clock_too() -> None:
    source = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    template = ChatTemplate(source, Limits(steps=10**12, cpu_seconds=0.1))
    begin = time.thread_time()
    with pytest.raises(TemplateError, match=r"0\.1 s"):
        template.render({})
    assert time.thread_time() - begin < 0.5


def test_a_failed_rendering_does_not_spoil_the_next() -> None:
    template = ChatTemplate("{% if bad %}{{ 'x' * 10**9 }}{% endif %}ok")
    for _ in range(3):
        with pytest.raises(TemplateError):
            template.render({"bad": True})
        assert template.render({"bad": False}) == "ok"


def test_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match="line 3"):
        ChatTemplate("\n\n{{ 1 // zero }}").render({"zero": 0})
    with pytest.raises(TemplateError, match="line 2"):
        ChatTemplate("\n{% if %}")


def test_a_long_conversation_fits_the_limits() -> None:
    turn = [{"role": "user", "content": "w " * 500}, {"role": "assistant", "content": "w " * 500}]
    variables = {"messages": turn * 200, "add_generation_prompt": True, "tools": None}
    relaxed = Limits(cpu_seconds=5.0)  # steps are what is tested; the machine may be slow
    assert len(ChatTemplate(QWEN, relaxed).render(variables)) > 400_000


def test_dates() -> None:
    text = ChatTemplate("{{ strftime_now('%d %b %Y') }}").render({})
    assert time.strptime(text, "%d %b %Y")


def test_messages_hold_plain_values_only() -> None:
    tokenizer = load_tokenizer(Source(byte_vocabulary()))
    with pytest.raises(TemplateError, match="object"):
        tokenizer.render_chat([{"role": "user", "content": object()}])
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(TemplateError, match="nested"):
        tokenizer.encode_chat([{"role": "user", "content": nested}])


@pytest.mark.parametrize(
    ("specials", "name", "expected"),
    [
        (["<|im_start|>", "<|im_end|>"], "chatml", "<|im_start|>user\na<|im_end|>\n<|im_start|>"),
        (["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "llama3",
         "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"),
        (["<start_of_turn>", "<end_of_turn>"], "gemma", "<start_of_turn>user\na<end_of_turn>\n"),
        ([], "plain", "User: a\nAssistant:"),
    ],
)  # fmt: skip
def test_fallback_by_vocabulary(specials: list[str], name: str, expected: str) -> None:
    tokenizer = load_tokenizer(Source(byte_vocabulary(specials=specials)))
    assert tokenizer.chat_template is None
    assert tokenizer.template_source == name
    assert tokenizer.render_chat([{"role": "user", "content": "a"}]).startswith(expected)
    assert bool(tokenizer.warnings) == (name == "plain")


def test_the_known_wrong_bitnet_template_is_replaced() -> None:
    specials = ["<|begin_of_text|>", "<|eot_id|>"]
    metadata = byte_vocabulary(
        specials=specials,
        chat_template="{% for m in messages %}Human: {{ m }}{% endfor %}BITNETAssistant:",
        **{"ggml.bos_token_id": 256},
    )
    fill = 128_256 - len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += [f"filler{i}" for i in range(fill)]
    metadata["tokenizer.ggml.token_type"] += [1] * fill
    metadata["general.architecture"] = "bitnet-b1.58"
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.template_source == "bitnet"
    text = tokenizer.render_chat(
        [{"role": "system", "content": " s "}, {"role": "user", "content": "u"}]
    )
    assert text == "<|begin_of_text|>System: s<|eot_id|>User: u<|eot_id|>Assistant: "
    assert any("converter error" in warning for warning in tokenizer.warnings)


def test_an_oversized_template_is_ignored_loudly() -> None:
    tokenizer = load_tokenizer(Source(byte_vocabulary(chat_template="x" * 300_000)))
    assert tokenizer.chat_template is None
    assert any("chat template" in warning for warning in tokenizer.warnings)
