"""What tests of reports share: a simulated run with odd texts, and readers of pages."""

import json

N = 240
ODD = [
    '</script><script>document.title = "pwned"</script>',
    "<img src=x onerror=\"document.title='pwned'\">",
    "{{ 7 * 7 }} &amp; \u2028 <!-- \\u003c",
]
SHARES = {("clear", 0): 0.6, ("clear", 4): 0.85, ("vague", 0): 0.55, ("vague", 4): 0.58}
AVERAGED = ["model", "template", "k"]
EVERY_CELL = ["template", "k", "seed"]
FAILED = [("clear", 4, 1, 5), ("vague", 4, 2, 6), ("vague", 4, 2, 7)]


def texts(n=N):
    return [*ODD, *(f"영화 {i} 재미있다" for i in range(n - len(ODD)))]


def rows_of(soup, caption):
    """A table as dicts from column titles to (text, value at full precision)."""
    table = next(c.find_parent("table") for c in soup.find_all("caption") if c.get_text().startswith(caption))
    titles = [th.get_text() for th in table.thead.find_all("th")]
    rows = []
    for tr in table.tbody.find_all("tr"):
        cells = tr.find_all(["th", "td"])
        value = [(c.get_text(), float(c["data-value"]) if c.has_attr("data-value") else None) for c in cells]
        rows.append(dict(zip(titles, value, strict=True)))
    return rows


def data_block(soup, name):
    return json.loads(soup.find(id=name).string)
