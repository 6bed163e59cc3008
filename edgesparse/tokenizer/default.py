"""Built-in chat templates, for models that carry none or a known wrong one."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BUILT_IN", "choose_template"]

_SYSTEM_FIRST = (
    "{% if messages and messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}"
    "{% endif %}"
)

BUILT_IN: dict[str, str] = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content "
        "+ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role "
        "+ '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "bitnet": (
        "{{ bos_token }}{% for m in messages %}{{ m.role | capitalize + ': ' "
        "+ m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}" + _SYSTEM_FIRST + "{% for m in turns %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
        "{% if loop.first and system %}{{ system | trim + '\\n\\n' }}{% endif %}"
        "{{ m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "plain": (
        "{{ bos_token }}{% for m in messages %}{{ m.role | capitalize + ': ' "
        "+ m.content | trim + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
}

# Written into BitNet files by an early converter; the model was never trained on it.
_KNOWN_WRONG = "BITNETAssistant:"
_BITNET_2B_TOKENS = 128_256


def choose_template(
    own: str | None,
    *,
    architecture: str,
    n_vocab: int,
    control: Mapping[str, int],
    warnings: list[str],
) -> tuple[str | None, tuple[str, str]]:
    """Decide between a model's own template and a built-in one.

    Returns
    -------
    own : str or None
        The model's template, ``None`` when absent or known to be wrong.
    fallback : tuple[str, str]
        Name and text of the built-in template for this vocabulary.
    """
    bitnet = architecture.startswith("bitnet") and n_vocab == _BITNET_2B_TOKENS
    if own is not None and _KNOWN_WRONG in own:
        warnings.append("the file's chat template is a known converter error; replaced")
        own = None
    if bitnet and "<|eot_id|>" in control:
        name = "bitnet"
    elif "<|im_start|>" in control and "<|im_end|>" in control:
        name = "chatml"
    elif "<|start_header_id|>" in control and "<|eot_id|>" in control:
        name = "llama3"
    elif "<start_of_turn>" in control and "<end_of_turn>" in control:
        name = "gemma"
    else:
        name = "plain"
        if own is None:
            warnings.append(
                "the model has no chat template and its vocabulary no chat markers; "
                'using plain "User: … Assistant:" turns'
            )
    return own, (name, BUILT_IN[name])
