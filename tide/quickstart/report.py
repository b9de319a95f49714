"""The quickstart's report: one HTML file with styles and images inside, for a browser without a network.

Everything that came out of a model or a file is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tide.presentation.page import facts, figure, header, page, scrolling, section
from tide.quickstart.results import BASELINE, Completion, ModelFacts, Pipeline, Results, Run
from tide.quickstart.table import (
    ABSENT,
    COLUMNS,
    Statistic,
    best_rows,
    has_spread,
    mean_nats_per_byte,
    millions,
    paired_differences,
    rows,
    seeds_note,
)

COMMANDS = ("make quickstart", "tide quickstart --full")

METHODS = {
    "none": "cross-entropy on the data alone, no teacher: the baseline",
    "kl": "cross-entropy and forward KL to the teacher's distribution",
    "reverse_kl": "cross-entropy and reverse KL, from the student's side",
    "taid": "cross-entropy and KL to a target that moves from student to teacher over training",
    "tidal": "cross-entropy and KL to a target that moves over training and with the noise level",
    "tide_shared": "TIDAL with CompDemo: the teacher is shown half of the masked tokens, then the other half",
    "calm": "cross-entropy and chunk likelihoods matched across tokenizers, from the teacher's side (CALM)",
    "tide_cross": "cross-entropy and Reverse CALM: chunk likelihoods matched from the student's side",
}

Images = Mapping[str, tuple[bytes, bytes]]
"""Figure name -> PNG for a light and for a dark page."""


def write_report(results: Results, directory: str | Path, commands: Sequence[str] = COMMANDS) -> Path:
    """Writes <directory>/report.html and each figure beside it as PNG; returns the report's path.

    Without matplotlib the report is written all the same, and says what to install for its figures.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    images, missing = {}, ""
    try:
        from tide.presentation.figures import DARK, png
        from tide.quickstart import plots
    except ImportError as error:
        if error.name != "matplotlib":
            raise
        missing = str(error)
    else:
        dark = plots.figures(results, DARK)
        for path in plots.save_plots(results, directory):
            images[path.stem] = (path.read_bytes(), png(dark[path.stem]))
    report = directory / "report.html"
    report.write_text(render_report(results, images, commands, missing), encoding="utf-8")
    return report


def render_report(
    results: Results, images: Images, commands: Sequence[str] = COMMANDS, missing_plots: str = ""
) -> str:
    """The whole page.

    Args:
        results: what to report.
        images: by the names of `plots.figures`; those that are not there are left out.
        commands: shell commands that make this report again.
        missing_plots: why there are no figures, if there are none.
    """
    body = [
        _header(results),
        "<main>",
        f'<p class="note">{escape(missing_plots)}</p>' if missing_plots else "",
        _figure(
            "differences", images, "Each method against the same training without a teacher. Left is better."
        ),
        *(_pipeline(pipeline, images) for pipeline in results.pipelines),
        _schedule(images),
        _reading(results),
        section(
            "settings", "What was run", facts({_spoken(k): _shown(v) for k, v in results.settings.items()})
        ),
        section(
            "environment", "Where it ran", facts({_spoken(k): v for k, v in results.environment.items()})
        ),
        section("reproduce", "Do it again", f"<pre><code>{escape(chr(10).join(commands))}</code></pre>"),
        "</main>",
        "<footer>TIDE: Zhang et al., <cite>Turning the TIDE</cite>, arXiv 2604.26951.</footer>",
    ]
    return page("TIDE quickstart", body, style=_STYLE)


def finding(pipeline: Pipeline) -> str:
    """One sentence: what the best method of a pipeline gains over training without a teacher."""
    by_method = {m: list(paired_differences(pipeline, m).values()) for m in pipeline.methods}
    means = {method: Statistic.of(values) for method, values in by_method.items() if values}
    means = {method: statistic for method, statistic in means.items() if statistic.mean == statistic.mean}
    if not means:
        return f"No method can be compared with {BASELINE} yet."
    best = min(means, key=lambda method: means[method].mean)
    gain, values = means[best], by_method[best]
    if gain.mean >= 0:
        return f"No method beats {BASELINE}; {best} comes closest, at {gain.mean:+.4f} nats per byte to it."
    spread = "" if gain.spread is None else f" ± {gain.spread:.4f}"
    wins = sum(value < 0 for value in values)
    seeds = "one seed" if len(values) == 1 else f"{wins} of {len(values)} seeds"
    lowered = f"{-gain.mean:.4f}{spread} nats per byte"
    return f"{best} lowers held-out loss by {lowered} against {BASELINE}, in {seeds}."


def _header(results: Results) -> str:
    runs = [run for pipeline in results.pipelines for run in pipeline.runs]
    tiles = {
        "students trained": str(len(runs)),
        "seeds": str(len({run.seed for run in runs})),
        "training time, summed over runs": _duration(sum(run.seconds for run in runs)),
        "peak memory": f"{max(run.peak_memory_mib for run in runs):.0f} MiB" if runs else ABSENT,
    }
    findings = "".join(
        f"<li><b>{escape(pipeline.name)}</b> {escape(finding(pipeline))}</li>"
        for pipeline in results.pipelines
    )
    return header(
        "TIDE quickstart",
        "Distilling diffusion language models on real code",
        tiles,
        f'<ul class="findings">{findings}</ul>',
    )


def _pipeline(pipeline: Pipeline, images: Images) -> str:
    parts = [
        '<div class="models">',
        _model("teacher", pipeline.teacher),
        '<span class="arrow" aria-hidden="true">&rarr;</span>',
        _model("student", pipeline.student),
        "</div>",
        _results_table(pipeline),
        _figure(
            f"curves-{pipeline.slug}",
            images,
            "Thin lines: seeds. Thick lines: their mean, smoothed for the training terms. On training "
            "batches, where methods coincide, a narrower line lies on a wider one.",
        ),
        _every_run(pipeline),
        _completions(pipeline),
    ]
    heading = pipeline.name[:1].upper() + pipeline.name[1:]
    return section(pipeline.slug, heading, "\n".join(filter(None, parts)))


def _results_table(pipeline: Pipeline) -> str:
    lines = rows(pipeline)
    best = [best_rows(lines, index) for index in range(len(COLUMNS))]
    several = has_spread(lines)
    body = ""
    for number, line in enumerate(lines):
        cells = [f'<th scope="row">{escape(line.label)}</th>']
        for index, (column, statistic) in enumerate(zip(COLUMNS, line.statistics, strict=True)):
            mean = escape(column.mean_text(statistic))
            if number in best[index]:
                mean = f'<strong class="best">{mean}<span class="unseen"> (best)</span></strong>'
            if several and not line.reference and statistic is not None:
                mean += f"<small>± {column.spread_text(statistic)}</small>"
            cells.append(f"<td>{mean}</td>")
        body += f"<tr{' class=reference' if line.reference else ''}>{''.join(cells)}</tr>"
    caption = f"Held-out loss and accuracy, {seeds_note(pipeline)}. Marked: the best method of a column."
    head = "".join(f'<th scope="col">{c.heading}<small>{c.unit}</small></th>' for c in COLUMNS)
    table = f'<table><thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{scrolling(f"{pipeline.name}: results", table)}<p class="caption">{escape(caption)}</p>'


def _every_run(pipeline: Pipeline) -> str:
    if not pipeline.runs:
        return ""
    heads = ("seed", "loss, nats/byte", f"vs {BASELINE}", "tokens/s", "time, s", "peak, MiB")
    body = []
    for method in pipeline.methods:
        differences = paired_differences(pipeline, method)
        for run in pipeline.runs_of(method):
            figures = (
                str(run.seed),
                f"{mean_nats_per_byte(run.evaluation):.4f}",
                f"{differences[run.seed]:+.4f}" if run.seed in differences else ABSENT,
                f"{run.tokens_per_second:.0f}",
                f"{run.seconds:.1f}",
                f"{run.peak_memory_mib:.0f}",
            )
            cells = "".join(f"<td>{figure}</td>" for figure in figures)
            body.append(f'<tr><th scope="row">{escape(method)}</th>{cells}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("method", *heads))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f"<details><summary>Every run</summary>{scrolling(f'{pipeline.name}: every run', table)}</details>"


def _completions(pipeline: Pipeline) -> str:
    """Prompts with what each student wrote, the source's own text first."""
    written: dict[str, list[tuple[str, Completion]]] = {}
    for method in pipeline.methods:
        run: Run | None = next((run for run in pipeline.runs_of(method) if run.completions), None)
        for completion in run.completions if run else []:
            written.setdefault(completion.prompt, []).append((method, completion))
    cards = []
    for prompt, answers in written.items():
        panes = [_pane("reference", answers[0][1].reference, "reference-text")]
        panes += [_pane(method, completion.completion, "") for method, completion in answers]
        cards.append(
            f'<article><pre class="prompt" tabindex="0"><code>{escape(prompt)}</code></pre>'
            f'<div class="panes">{"".join(panes)}</div></article>'
        )
    return f"<h3>Completed functions</h3>{''.join(cards)}" if cards else ""


def _pane(heading: str, code: str, kind: str) -> str:
    return (
        f'<section class="pane {kind}"><h4>{escape(heading)}</h4>'
        f'<pre tabindex="0"><code>{escape(code)}</code></pre></section>'
    )


def _schedule(images: Images) -> str:
    caption = (
        "TIDAL's target is the student's own prediction at lambda 0 and the teacher's at lambda 1. "
        "The map shows the teacher's share by training progress p and diffusion time t."
    )
    content = _figure("lambda", images, caption)
    return section("schedule", "How far the target moves", content) if content else ""


def _reading(results: Results) -> str:
    present = dict.fromkeys(method for pipeline in results.pipelines for method in pipeline.methods)
    methods = {method: METHODS[method] for method in present if method in METHODS}
    terms = {
        "t": "share of tokens that are masked; the student fills them in",
        "nats/byte": "held-out loss on masked tokens over the bytes they spell: comparable across tokenizers",
        f"vs {BASELINE}": f"held-out loss, mean over t, minus that of {BASELINE} on the same seed",
        "accuracy": "masked tokens whose first guess is right, mean over t; not comparable across tokenizers",
        "start": "the undistilled checkpoint that every student starts from",
    }
    return section(
        "reading", "How to read this", f"<h3>Figures</h3>{facts(terms)}<h3>Methods</h3>{facts(methods)}"
    )


def _figure(name: str, images: Images, caption: str) -> str:
    return figure(*images[name], caption) if name in images else ""


def _model(role: str, model: ModelFacts) -> str:
    return (
        f'<div class="model"><span>{role}</span><b>{escape(model.name)}</b>'
        f"<span>{millions(model.parameters)} parameters, vocabulary {model.vocabulary_size:,}</span></div>"
    )


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


_STYLE = """
.findings { margin: 0 0 1.8rem; padding: 0; list-style: none; font-size: 1.1rem; }
.findings li { margin: .35rem 0; }
.findings b { display: inline-block; min-width: 9.5rem; font-weight: 600; opacity: .85; }
#schedule img { max-width: 46rem; margin: 0 auto; }
.reference > * { color: var(--muted); font-style: italic; }
.best {
  padding: .1rem .4rem; margin-right: -.4rem; border-radius: .4rem; background: var(--best);
  color: var(--accent);
}
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.models { display: flex; flex-wrap: wrap; align-items: center; gap: .6rem 1rem; margin-bottom: 1.2rem; }
.model { padding: .6rem 1rem; border: 1px solid var(--line); border-radius: .7rem; }
.model span { display: block; color: var(--muted); font-size: .84rem; }
.arrow { color: var(--muted); font-size: 1.4rem; }
@media (max-width: 34rem) { .models { display: grid; justify-items: center; } .model { width: 100%; } }
@media (max-width: 34rem) { .arrow { line-height: 1; rotate: 90deg; } .findings b { display: block; } }
article { margin: 1rem 0 1.8rem; }
.prompt { border-left: 4px solid var(--accent); border-radius: .2rem .6rem .6rem .2rem; }
.panes { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .8rem; }
.pane { min-width: 0; }
.pane h4 { margin: .9rem 0 .3rem; font: 500 .88rem var(--mono); color: var(--muted); }
.reference-text pre { background: none; border: 1px dashed var(--line); }
"""
