"""Variables against a template: names that it reads, names that it does not, and the clock."""

from __future__ import annotations

import warnings

import pytest

from tide.data import check_template_arguments, template_names

MARKED = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] | trim }}{% endgeneration %}{% else %}"
    "{% if loop.first and tools %}{{ tools | tojson(indent=2) }}{% endif %}"
    "{{ m['content'] }}{% endif %}{% if m is none %}{% break %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}x{% endif %}"
)
# As published templates read the clock: unless a date is given; without a system message; always.
UNLESS = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}"
    "{% endif %}{% endif %}{{ bos_token + date_string }}{{ messages[0].content }}"
)
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ today | default(strftime_now('%Y')) }}{% endif %}"
    "{{ messages | tojson }}"
)
ALWAYS = "{{ strftime_now('%Y') }}{% if language %}{{ language }}{% endif %}"


def said(template, arguments, **special) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_template_arguments(template, arguments, special, key="student.template_arguments")
    return [str(warning.message) for warning in caught]


def test_the_names_that_a_template_reads():
    assert template_names(MARKED) == {"bos_token", "enable_thinking"}
    assert template_names(UNLESS) == {"bos_token", "date_string"}
    assert template_names("{% set x = 1 %}{{ x }}{% set ns = namespace(y=2) %}{{ ns.y }}") == set()
    # What is set inside the marks is not set behind them, as transformers has it.
    assert template_names("{% generation %}{% set x = 1 %}{% endgeneration %}{{ x }}") == {"x"}


@pytest.mark.parametrize(
    "arguments", [{}, {"enable_thinking": False}, {"bos_token": "", "enable_thinking": 1}]
)
def test_names_that_are_read_pass_in_silence(arguments):
    assert said(MARKED, arguments) == []


def test_a_name_that_is_never_read_is_refused_with_those_that_are():
    with pytest.raises(ValueError) as caught:
        said(MARKED, {"enable_thinkin": False, "enable_thinking": False}, bos_token="<s>")
    assert str(caught.value).startswith("student.template_arguments: ")
    assert "never reads enable_thinkin. It reads enable_thinking." in str(caught.value)
    with pytest.raises(ValueError, match=r"never reads a, b\. It reads none\."):
        said("{{ messages }}{% set a = 1 %}{{ a }}", {"a": 1, "b": 2})


def test_a_broken_template_is_an_error():
    with pytest.raises(ValueError, match=r"cannot be read \(TemplateSyntaxError: .*\)\. Set another"):
        template_names("{% if %}")


@pytest.mark.parametrize(
    ("template", "fixed", "reads"),
    [(UNLESS, {"date_string": "1 May 2025"}, "date_string"), (WITHOUT_SYSTEM, {"today": "2025"}, "today")],
)
def test_a_template_that_reads_the_date_warns_unless_an_argument_sets_it(template, fixed, reads):
    (warning,) = said(template, {}, bos_token="<s>")
    assert warning.startswith("student.template_arguments: ") and "changes daily" in warning
    assert f"it reads {reads}." in warning
    assert said(template, fixed, bos_token="<s>") == []


def test_an_argument_that_sets_no_date_does_not_silence_the_warning():
    (warning,) = said(ALWAYS, {"language": "en"})
    assert "it reads language." in warning
    assert said("{% if false %}{{ strftime_now('%Y') }}{% endif %}", {}) == []
