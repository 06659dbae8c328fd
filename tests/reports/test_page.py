"""The HTML report says what summarise, compare and calibrate say, and shows odd texts as text."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from harness.analysis.calibrate import calibrate
from harness.analysis.cells import over_seeds
from harness.analysis.compare import compare
from harness.analysis.recommendation import recommend, sentences
from harness.analysis.summary import summarise
from harness.core.errors import ConfigError, DataError, RunDirError
from harness.planning.examples import NAME as PROMPTS
from harness.planning.examples import prompt_examples
from harness.planning.preparation import prepare
from harness.reporting.report.browser import BITS, browser
from harness.reporting.report.build import render, write_report
from harness.reporting.report.gathering import gather, run_names
from harness.reporting.report.lines import against_k
from harness.reporting.report.page import embedded_json
from harness.reporting.report.wording import Scale, scale_of
from harness.results.store import RunStore
from tests.reports.pages import AVERAGED, EVERY_CELL, ODD, SHARES, N, data_block, rows_of, texts
from tests.simulated_runs import classified_run, write_cell, write_manifest, write_samples


def test_ranking_has_the_figures_of_compare_and_summarise(run_dir, cell_soup):
    wanted, cells = compare([run_dir]).strategies, summarise(run_dir).set_index(["template", "k", "seed"])
    found = {row["Strategy"][0]: row for row in rows_of(cell_soup, "Strategies by accuracy")}
    assert next(iter(found)) == wanted["label"][0]
    assert len(found) == len(wanted) == 6
    for row in wanted.to_dict("records"):
        shown = found[row["label"]]
        assert shown["Accuracy"] == (f"{100 * row['mean']:.1f}%", row["mean"])
        assert shown["95% interval"][0] == f"{100 * row['low']:.1f}% to {100 * row['high']:.1f}%"
        assert shown["Scored / attempted"][0] == f"{row['n_scored']} / {row['n_attempted']}"
        assert shown["Best in resamples"][1] == row["share_best"]
        cell = cells.loc[(row["template"], row["k"], 1 if row["k"] == 0 else row["seed"])]
        assert shown["Macro F1"][1] == cell["macro_f1"]


def test_the_group_like_the_best_is_that_of_compare(run_dir, cell_soup):
    wanted = compare([run_dir]).strategies
    assert 0 < (wanted["may_be_best"] & ~wanted["is_best"]).sum() < len(wanted) - 1
    found = {r["Strategy"][0]: r["Verdict"][0] for r in rows_of(cell_soup, "Strategies by accuracy")}
    for row in wanted.to_dict("records"):
        assert found[row["label"]] == (
            "★ best" if row["is_best"] else "● may be best" if row["may_be_best"] else "worse"
        )


def test_the_first_screen_answers_which_how_sure_and_at_what_cost(run_dir, cell_soup):
    comparison = compare([run_dir])
    answer = cell_soup.find(id="answer")
    best = comparison.strategies[comparison.strategies["is_best"]].iloc[0]
    text = " ".join(answer.get_text(" ").split())
    assert comparison.best in answer.h1.get_text()
    facts = {d.dt.get_text(): d.dd.get_text(" ") for d in answer.select("dl > div")}
    expected = comparison.selection.expected
    interval = f"{100 * expected.low:.1f}% to {100 * expected.high:.1f}%"
    assert f"{100 * expected.value:.1f}% accuracy to expect on new samples, for this draw" in text
    assert f"95% interval {interval}" in text
    assert facts["Expected accuracy on new samples, for this draw of demonstrations"].startswith(
        f"{100 * expected.value:.1f}% {interval}"
    )
    raw = f"{100 * best['mean']:.1f}% {100 * best['low']:.1f}% to {100 * best['high']:.1f}%"
    assert facts["As scored, not corrected"].startswith(raw)
    assert list(facts).index("As scored, not corrected") == 1 + list(facts).index(
        "Expected accuracy on new samples, for this draw of demonstrations"
    )
    alike = int(comparison.strategies["may_be_best"].sum()) - 1
    assert facts["Others that may be the best"].startswith(f"{alike} of 5")
    assert facts["Tokens per prompt"].startswith("82")
    assert facts["Tokens computed, whole grid"].startswith("19.2 k prompts hold 76.8 k; sharing saved 75%")
    assert facts["Time, whole grid"] == "2 min 05 s replicas worked 4 min 00 s"
    assert facts["Scored / attempted"] == f"{8 * N - 3:,} / {8 * N:,}"
    assert (facts["Task"], facts["Model"], facts["Date"]) == ("nsmc", "small", "2026-03-01")
    assert facts["Always the most frequent class"].startswith("50.0%")


def test_figures_of_one_draw_say_so_wherever_they_stand(cell_soup):
    draw = "K > 0: this demonstration draw"
    assert draw in cell_soup.find(id="answer").select_one(".verdict").get_text()
    for name in ("ranking", "differences", "confusion"):
        section = cell_soup.find(id=name)
        assert draw in section.select_one(".lead").get_text()
        captions = [c.get_text() for c in section.select("figcaption, caption") if not c.find_parent(class_="matrices")]
        assert captions and all(draw in caption for caption in captions)


def test_strategies_are_templates_and_k_with_their_draws_averaged(run_dir, soup):
    comparison, cells = compare([run_dir], AVERAGED), summarise(run_dir)
    found = {row["Strategy"][0]: row for row in rows_of(soup, "Strategies by accuracy")}
    assert list(found) == comparison.strategies["label"].tolist() and len(found) == 4
    for row in comparison.strategies.to_dict("records"):
        shown, own = found[row["label"]], cells[(cells["template"] == row["template"]) & (cells["k"] == row["k"])]
        assert shown["Accuracy"] == (f"{100 * row['mean']:.1f}%", row["mean"])
        assert row["mean"] == pytest.approx(own["accuracy"].mean(), abs=0.01)
        assert shown["95% interval"][0] == f"{100 * row['low']:.1f}% to {100 * row['high']:.1f}%"
        assert shown["Macro F1"][1] == pytest.approx(own["macro_f1"].mean())
    expected = comparison.selection.expected
    answer = " ".join(soup.find(id="answer").get_text(" ").split())
    assert f"{100 * expected.value:.1f}% accuracy to expect on new samples and new draws of demonstrations" in answer
    assert "Demonstrations 2 draws, averaged" in answer
    assert "this demonstration draw" not in answer


def test_the_first_screen_recommends_as_compare_does(run_dir, soup, cell_soup):
    for page, by in ((soup, AVERAGED), (cell_soup, EVERY_CELL)):
        comparison = compare([run_dir], by)
        use, others = sentences(recommend(comparison))
        answer = page.find(id="answer")
        assert answer.h1.get_text().endswith(use)
        verdict = answer.select_one(".verdict").get_text()
        assert verdict.startswith(others)
        worse = int((~comparison.strategies["may_be_best"]).sum())
        assert (f"{worse} {'is' if worse == 1 else 'are'} shown to be worse (95%)" in verdict) == (worse > 0)
        facts = {d.dt.get_text(): d.dd.get_text(" ") for d in answer.select("dl > div")}
        cheapest = recommend(comparison).cheapest
        assert (cheapest is None) == ("Cheapest that may be as good" not in facts)
        assert cheapest is None or facts["Cheapest that may be as good"].endswith(f"tokens: {cheapest}")


def test_a_lucky_draw_is_not_crowned(tmp_path):
    store, gold = RunStore(str(tmp_path / "run")), [i % 2 for i in range(N)]
    store.create()
    write_manifest(store, ["lucky", "steady"], [4], [1, 2], N)
    write_samples(store, texts(), gold=gold)
    shares = {("lucky", 1): 0.9, ("lucky", 2): 0.2, ("steady", 1): 0.7, ("steady", 2): 0.7}
    for (template, seed), share in shares.items():
        predicted = [g if i < share * N else 1 - g for i, g in enumerate(gold)]
        columns = {"gold": gold, "prediction": predicted, "label_logprobs": [[-0.1, -2.0]] * N}
        write_cell(store, template, 4, seed, columns)
    assert gather([store.run_dir]).strategies["label"][0] == "steady"
    assert gather([store.run_dir], EVERY_CELL).strategies["label"][0] == "lucky seed=1"


def test_without_a_common_draw_every_draw_stands_for_itself_and_the_page_says_so(tmp_path):
    one = classified_run(tmp_path / "one", texts(), {("clear", 4): 0.7})
    soup = BeautifulSoup(write_report([one]).read_text(encoding="utf-8"), "html.parser")
    assert {row["Strategy"][0] for row in rows_of(soup, "Strategies by accuracy")} == {"seed=1", "seed=2"}
    assert "Every draw of demonstrations is a strategy of its own here" in soup.select_one(".warning").get_text()


@pytest.mark.parametrize("by", [["k"], ["template"], ["seed"], ["template", "seed"]])
def test_any_axes_may_make_a_strategy(run_dir, by, tmp_path):
    page = BeautifulSoup(
        write_report([run_dir], str(tmp_path / "r.html"), by).read_text(encoding="utf-8"), "html.parser"
    )
    assert [row["Strategy"][0] for row in rows_of(page, "Strategies by accuracy")] == compare([run_dir], by).strategies[
        "label"
    ].tolist()
    assert not {"nan", "<NA>"} & set(page.main.get_text(" ").split())


@pytest.mark.parametrize(("by", "words"), [(["templat"], "did you mean"), (["model"], "comparing needs two")])
def test_axes_that_cannot_be_compared_by_are_refused(run_dir, by, words):
    with pytest.raises(ConfigError, match=words):
        gather([run_dir], by)


def test_heatmap_and_lines_hold_the_means_over_seeds(run_dir, soup):
    specs = data_block(soup, "chart-data")
    seeds = over_seeds(summarise(run_dir)).set_index(["template", "k"])
    heat = specs["heatmap-0-0"]["data"][0]
    for template, row in zip(heat["y"], heat["z"], strict=True):
        for k, value in zip(heat["x"], row, strict=True):
            assert value == pytest.approx(100 * seeds.loc[(template, int(k[2:])), "mean"], abs=1e-6)
    band, line = specs["against-k-0-0"]["data"][:2]
    assert line["name"] == "clear"
    assert line["y"][1] == pytest.approx(100 * seeds.loc[("clear", 4), "mean"], abs=1e-6)
    assert band["y"][1:3] == pytest.approx([100 * seeds.loc[("clear", 4), name] for name in ("most", "least")])


def test_of_many_templates_the_best_lines_are_named_and_the_others_grey():
    names = [f"t{i}" for i in range(20)]
    rows = [(name, k, 0.5 + 0.02 * ((7 * i) % 20) + 0.001 * k) for i, name in enumerate(names) for k in (0, 4)]
    seeds = pd.DataFrame(rows, columns=["template", "k", "mean"]).assign(n_seeds=1)
    seeds = seeds.assign(least=seeds["mean"], most=seeds["mean"])
    data = against_k(seeds, names, Scale("accuracy", True), (40, 95), None)["data"]
    shown = {line["name"] for line in data if line.get("showlegend", True)}
    best = seeds.groupby("template")["mean"].max().sort_values().index[-6:]
    assert shown == set(best)
    assert {line["name"] for line in data if "name" in line} == set(names)
    assert {line["line"]["color"] for line in data if "name" in line and line["name"] not in shown} == {"var(--line)"}
    few = against_k(seeds[seeds["template"].isin(names[:3])], names[:3], Scale("accuracy", True), (40, 95), None)[
        "data"
    ]
    assert {line["name"] for line in few if line.get("showlegend", True)} == set(names[:3])


@pytest.mark.parametrize(("by", "page", "n"), [(AVERAGED, "soup", 6), (EVERY_CELL, "cell_soup", 15)])
def test_pairs_and_matrix_hold_the_differences_of_compare(run_dir, by, page, n, request):
    comparison, soup = compare([run_dir], by), request.getfixturevalue(page)
    found = {frozenset((r["First"][0], r["Second"][0])): r for r in rows_of(soup, "Pairs of strategies")}
    matrix = data_block(soup, "chart-data")["differences"]["data"][0]
    assert len(found) == len(comparison.pairs) == n
    for pair in comparison.pairs.to_dict("records"):
        row = found[frozenset((pair["first"], pair["second"]))]
        sign = 1 if row["First"][0] == pair["first"] else -1
        assert row["Difference"][1] == sign * pair["difference"]
        assert row["p (Holm)"][1] == pair["p_holm"]
        assert (row["Verdict"][0] != "open") == pair["differs"]
        low, high = sorted((sign * pair["low"], sign * pair["high"]))
        assert row["95% interval"][0] == f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
        y, x = matrix["y"].index(pair["first"]), matrix["x"].index(pair["second"])
        assert matrix["z"][y][x] == pytest.approx(100 * pair["difference"], abs=1e-6)
        assert matrix["z"][x][y] == -matrix["z"][y][x]
        assert (matrix["text"][y][x] == "●") == pair["differs"]


def test_variance_and_calibration_are_those_of_the_analysis(run_dir, soup):
    variance = compare([run_dir]).variance
    shown = rows_of(soup, "Variance shares of single results")
    assert [r["Share"][1] for r in shown] == variance["share"].tolist()
    names = [effect.replace("k", "K").replace(" x ", " × ") for effect in variance["effect"]]
    assert [r["Effect"][0] for r in shown] == names
    overall = calibrate(run_dir).overall.set_index("method")
    assert set(overall.index) == {"batch", "ensemble"}
    for method, name in (("batch", "batch calibration"), ("ensemble", "the ensemble of templates")):
        rows = rows_of(soup, f"Accuracy before and after {name}")
        (row,) = [r for r in rows if r["Cell"][0].startswith("all ")]
        assert (row["Before"][1], row["After"][1]) == (overall.loc[method, "before"], overall.loc[method, "after"])


def test_every_calibration_has_its_own_sentence_chart_and_table(run_dir):
    data = gather([run_dir])
    found = data.runs[0].calibration
    scores = {"contextual": -0.1, "PMI_DC": 0.05}
    frames = [found.cells, found.overall]
    for method, change in scores.items():
        for place in (0, 1):
            batch = frames[place][frames[place]["method"] == "batch"]
            bounds = {"difference": change, "low": change - 0.01, "high": change + 0.01}
            frames[place] = pd.concat([frames[place], batch.assign(method=method, **bounds)])
    run = replace(data.runs[0], calibration=replace(found, cells=frames[0], overall=frames[1]))
    soup = BeautifulSoup(render(replace(data, runs=(run,))), "html.parser")
    section = soup.find(id="calibration")
    lead = section.select_one(".lead").get_text()
    assert "contextual calibration lowers it" in lead and "domain-conditional PMI raises it" in lead
    assert {"calibration-0", "calibration-0-contextual", "calibration-0-pmi_dc"} <= set(data_block(soup, "chart-data"))
    for name in ("contextual calibration", "domain-conditional PMI"):
        rows = rows_of(soup, f"Accuracy before and after {name}")
        assert len(rows) == 1 + (found.cells["method"] == "batch").sum()


def test_confusion_matrices_count_every_scored_sample(run_dir, cell_soup):
    best = compare([run_dir]).strategies.iloc[0]
    rows = rows_of(cell_soup, best["label"])
    counts = [[row[name][1] for name in ("negative", "positive")] for row in rows]
    assert sum(map(sum, counts)) == best["n_scored"]
    cells = summarise(run_dir)
    own = cells[(cells["template"] == best["template"]) & (cells["k"] == best["k"])]["accuracy"].tolist()
    assert any((counts[0][0] + counts[1][1]) / best["n_scored"] == pytest.approx(accuracy) for accuracy in own)


def test_texts_of_the_data_are_text_and_nothing_else(html, soup):
    scripts = soup.find_all("script")
    assert len(scripts) == 4
    assert "pwned" not in "".join(s.get_text() for s in scripts if not s.has_attr("type"))
    assert soup.find("img") is None
    assert "<img" not in soup.find(id="sample-data").string
    data = data_block(soup, "sample-data")
    assert [data["texts"][s["t"][0]] for s in data["samples"][:3]] == ODD
    assert ODD[0] in soup.find(id="prompts").get_text()
    assert html.count("</script>") == 4


def test_embedded_json_cannot_leave_its_block():
    value = {"a": "</script><!--", "b": "\u2028&\u0000'\"", "c": [1.5, None]}
    text = str(embedded_json(value))
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_the_policy_allows_the_own_scripts_and_no_request(soup):
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none';")
    script = re.search(r"script-src ([^;]*);", policy)[1].split()
    run = [s.string for s in soup.find_all("script") if not s.has_attr("type")]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert script == [f"'sha256-{found}'" for found in hashes]
    links = [tag[name] for tag in soup.find_all(True) for name in ("src", "href", "action") if tag.has_attr(name)]
    assert all(link.startswith(("#", "data:,")) for link in links)
    assert not [tag for tag in soup.find_all(True) if any(name.startswith("on") for name in tag.attrs)]


def test_every_chart_says_in_words_and_in_a_table_what_it_shows(soup):
    places = soup.select("[data-chart]")
    assert len(places) >= 6
    for place in places:
        assert len(place["aria-label"]) > 40
        assert place.find_parent("section").find("table") is not None
    for section in soup.select("main > section")[1:]:
        assert section.select_one(".lead").get_text().endswith(".")
        assert soup.find(id=section["aria-labelledby"]) is not None
    assert all(table.caption.get_text() for table in soup.select("table"))


def test_the_samples_carry_predictions_and_log_probabilities(run_dir, soup):
    data, found = data_block(soup, "sample-data"), gather([run_dir])
    sample = next(s for s in data["samples"] if s["i"] == "s00005")
    row = data["labels"].index("clear K=4 seed=1")
    assert sample["p"][row] == -2
    assert sample["e"][str(row)] == "ValueError: <b>broken</b>"
    other = data["labels"].index("clear K=0")
    wanted = found.answers.logprobs[other, 5]
    assert sample["l"][2 * other : 2 * other + 2] == [round(100 * v) for v in wanted]
    assert sample["f"] & BITS["failed"]


def test_filters_count_the_whole_run(run_dir, soup):
    grid = gather([run_dir]).answers
    chips = {chip.input["value"]: int(chip.b.get_text()) for chip in soup.select(".chip")}
    wrong = sum(all(v != 1 for v in column) for column in grid.value.T)
    assert chips == {
        "": N,
        "wrong_all": wrong,
        "disagree": sum(len({p for p in column if p >= -1}) > 1 for column in grid.predicted.T),
        "failed": 3,
        "no_label": len(range(0, N, 7)),
        "right_all": sum(all(v == 1 or v != v for v in column) for column in grid.value.T),
    }


def test_a_page_with_too_many_samples_keeps_some_of_every_kind(run_dir):
    found = gather([run_dir])
    small = browser(found, most_bytes=8000)
    assert 10 < small.n_shown < N == small.n_samples
    assert len(json.dumps(small.document["samples"], ensure_ascii=False).encode()) < 8000 * 1.1
    full = browser(found)
    assert full.n_shown == N
    for kind in ("wrong_all", "disagree", "failed", "no_label", "right_all"):
        assert full.counts[kind] == sum(bool(s["f"] & BITS[kind]) for s in full.document["samples"])
        assert any(s["f"] & BITS[kind] for s in small.document["samples"])
    assert small.counts == full.counts


def test_long_texts_are_cut_with_a_note_of_their_length(tmp_path):
    run = classified_run(tmp_path / "run", ["가" * 5000, *texts(60)[1:]], SHARES)
    data = browser(gather([run])).document
    (first,) = [s for s in data["samples"] if s["i"] == "s00000"]
    assert data["texts"][first["t"][0]] == "가" * 1200 + " … (+3,800 characters)"


def test_the_same_records_give_the_same_bytes_whatever_the_size(run_dir, tmp_path):
    one = write_report([run_dir], str(tmp_path / "one.html")).read_bytes()
    two = write_report([run_dir], str(tmp_path / "two.html")).read_bytes()
    assert one == two
    assert len(one) < 8_000_000


def test_generated_answers_have_their_own_columns_and_no_calibration(answered, tmp_path):
    soup = BeautifulSoup(write_report([answered], str(tmp_path / "r.html")).read_text(encoding="utf-8"), "html.parser")
    cells = summarise(answered).set_index(["template", "k"])
    rows = {row["Strategy"][0]: row for row in rows_of(soup, "Strategies by exact match")}
    assert len(rows) == 4
    shown = rows["long K=2"]
    cell = cells.loc[("long", 2)]
    assert shown["Exact match"][1] == cell["exact_match"]
    assert shown["F1"][1] == cell["f1"]
    assert shown["Cut off"][1] == cell["truncated_share"] == 0.1
    low, high = cell["exact_match_low"], cell["exact_match_high"]
    assert shown["95% interval"][0] == f"{100 * low:.1f}% to {100 * high:.1f}%"
    assert soup.find(id="calibration") is None
    assert soup.find(id="confusion") is None
    data = data_block(soup, "sample-data")
    sample = data["samples"][0]
    assert sample["g"] == ["답0"]
    assert {data["texts"][at] for at in sample["a"]} <= {"답0", "<i>틀림</i>0"}
    assert data["metrics"] == ["exact_match", "f1"]
    assert sum(bool(s["f"] & BITS["cut_off"]) for s in data["samples"]) == 12


def test_several_runs_are_named_as_compare_names_them(run_dir, tmp_path):
    other = classified_run(tmp_path / "other", texts(), {("clear", 0): 0.7, ("clear", 4): 0.6}, seeds=(3,), seed=9)
    dirs = [run_dir, other]
    found = gather(dirs)
    assert found.strategies["label"].tolist()[0] == compare(dirs).strategies["label"][0]
    assert set(found.strategies["run"]) == set(run_names(dirs)) == {"main", "other"}
    assert sorted(found.strategies["label"]) == sorted(compare(dirs).strategies["label"])
    text = write_report(dirs, str(tmp_path / "r.html")).read_text(encoding="utf-8")
    assert {"heatmap-0-0", "heatmap-1-0", "calibration-1"} <= set(
        data_block(BeautifulSoup(text, "html.parser"), "chart-data")
    )


def test_runs_in_folders_of_one_name_are_told_apart_as_in_compare(tmp_path):
    dirs = [classified_run(tmp_path / n / "run", texts(40), {("clear", 0): 0.7}) for n in ("a", "b")]
    assert set(gather(dirs).strategies["run"]) == set(compare(dirs).strategies["run"]) == set(dirs)


def test_runs_of_different_tasks_are_refused(run_dir, answered):
    with pytest.raises((DataError, ConfigError)):
        gather([run_dir, answered])


def test_a_run_that_goes_on_says_how_far_it_is(tmp_path):
    run = classified_run(tmp_path / "run", texts(40), SHARES, status="running")
    (tmp_path / "run" / "parts" / "vague-4-2.parquet").unlink()
    soup = BeautifulSoup(write_report([run]).read_text(encoding="utf-8"), "html.parser")
    assert soup.select_one(".warning").get_text() == "This run is running: 280 of 320 records are there."


def test_one_strategy_has_a_page_that_says_why_nothing_is_compared(tmp_path):
    run = classified_run(tmp_path / "run", texts(40), {("clear", 0): 0.7})
    soup = BeautifulSoup(write_report([run]).read_text(encoding="utf-8"), "html.parser")
    assert "clear" in soup.h1.get_text()
    assert "one strategy in these records" in soup.select_one(".verdict").get_text()
    assert soup.find(id="differences") is None
    assert rows_of(soup, "Strategies by accuracy")[0]["Accuracy"][1] == summarise(run)["accuracy"][0]


def test_a_run_in_which_everything_failed_has_a_page(tmp_path):
    failed = [("clear", 0, s, i) for s in (1, 2) for i in range(20)]
    run = classified_run(tmp_path / "run", texts(20), {("clear", 0): 0.7}, failed=failed)
    soup = BeautifulSoup(write_report([run]).read_text(encoding="utf-8"), "html.parser")
    assert rows_of(soup, "Strategies by accuracy")[0]["Scored / attempted"][0] == "0 / 20"
    assert soup.find(id="calibration") is None


def test_prompts_come_from_the_wording_where_the_run_kept_none(soup):
    section = soup.find(id="prompts")
    assert section.select_one("pre").get_text() == f"clear: {ODD[0]}\n감정:"
    assert "no prompts.json" in section.get_text()
    assert "K=0: 22 tokens, K=4: 82 tokens" in section.get_text()


def test_prompts_that_the_run_kept_are_shown_whole(make_config, tmp_path):
    prepared = prepare(make_config(grid={"templates": ["lecture_1"], "k": [0, 2], "seeds": [7]}))
    kept = prompt_examples(prepared)
    (entry,) = kept["prompts"]
    renderer = prepared.renderer(prepared.models[0], "lecture_1", 7)
    (wanted,) = renderer.prompts([prepared.data.samples[0]], 7, [2])
    assert (entry["text"], entry["n_tokens"]) == (wanted.text, len(wanted.ids))
    assert ["".join(tokens).strip() for tokens in entry["label_tokens"]] == ["부정", "긍정"]
    run = classified_run(tmp_path / "run", texts(40), {("lecture_1", 0): 0.6, ("lecture_1", 2): 0.7})
    entry["model"] = "models/small"
    RunStore(run).write_json(PROMPTS, kept)
    section = BeautifulSoup(write_report([run]).read_text(encoding="utf-8"), "html.parser").find(id="prompts")
    assert section.select_one("pre").get_text() == entry["text"]
    assert f"{entry['n_tokens']} tokens" in section.get_text()
    assert "no prompts.json" not in section.get_text()


def test_figures_are_rounded_for_people():
    scale = scale_of("exact_match", [0.1, 0.5])
    assert (scale.name, scale.value(0.82371), scale.difference(-0.0123)) == ("exact match", "82.4%", "−1.2")
    assert scale.interval(float("nan"), float("nan")) == scale.value(float("nan")) == "–"
    plain = scale_of("length", [0.1, 12.0])
    assert (plain.value(12.3456), plain.points) == ("12.35", "")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirError, match="is not a run directory"):
        write_report([str(tmp_path)])


def test_a_run_without_records_is_refused(tmp_path):
    store = RunStore(str(tmp_path))
    store.create()
    write_manifest(store, ["clear"], [0], [1], 3)
    write_samples(store, texts(3), gold=[0, 1, 0])
    with pytest.raises(RunDirError, match="no records yet"):
        write_report([str(tmp_path)])


@pytest.mark.parametrize("out", [".", "nowhere/report.html"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, out):
    with pytest.raises(ConfigError, match="set --out to a file"):
        write_report(["no run at all"], str(tmp_path / out))


def test_cost_names_what_no_other_beats_on_both(run_dir, soup):
    data = gather([run_dir])
    found = rows_of(soup, "Accuracy against tokens of a prompt")
    points = data.strategies[data.strategies["template"].notna()]
    for row in found:
        own = points[points["label"] == row["Strategy"][0]].iloc[0]
        assert (row["Tokens"][1], row["Accuracy"][1]) == (own["tokens"], own["mean"])
        better = (points["tokens"] <= own["tokens"]) & (points["mean"] >= own["mean"])
        strictly = (points["tokens"] < own["tokens"]) | (points["mean"] > own["mean"])
        assert not (better & strictly).any()
    assert found[-1]["Accuracy"][1] == points["mean"].max()


def test_prices_stand_beside_tokens_where_the_configuration_has_them(run_dir):
    from harness.reporting.report.cost import cost_sections

    data = gather([run_dir])
    assert "Price" not in str(next(cost_sections(data, Scale("accuracy", True))).charts[0].table.columns)
    data.runs[0].manifest["config"]["model"]["input_price"] = 2.5
    table = next(cost_sections(data, Scale("accuracy", True))).charts[0].table
    assert table.columns[2].title == "Price of 1,000 prompts"
    for row in table.rows:
        assert row[2].value == pytest.approx(2.5 * row[1].value / 1000)


def luminance(colour):
    """WCAG 2.2's relative luminance of #rrggbb."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_the_contrast_that_wcag_asks_for(soup):
    blocks = re.findall(r"\{([^{}]*--page:[^{}]*)\}", soup.style.string)
    assert len(blocks) == 3
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for text, ground, least in [
            *(
                (name, ground, 4.5)
                for name in ("ink", "soft", "accent", "best", "good", "bad")
                for ground in ("page", "panel")
            ),
            ("warn", "warn-tint", 4.5),
            ("page", "accent", 4.5),
            *((f"series-{i}", "panel", 3) for i in range(1, 7)),
            ("faint", "panel", 3),
        ]:
            light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (text, ground)
