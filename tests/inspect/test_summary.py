"""A summary in a notebook."""

import re

import jaxcnn as cnn


def test_a_notebook_shows_the_table_of_a_summary():
    table = cnn.inspect.summary(cnn.models.lenet5(), (32, 32, 1))
    text = table._repr_html_()
    rows = [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall("<tr>(.*?)</tr>", text)]
    assert len(rows) == len(table.layers) + 2  # with the header and the total
    header, first, total = rows[0], rows[1], rows[-1]
    assert first[: header.index("MACs") + 1] == ["conv1", "conv(6, 5)", "28x28x6", "156", "117,600"]
    assert total[header.index("parameters")] == "61,706"
    assert "of parameters" in text.split("</table>")[1]


def test_what_is_nested_is_indented_and_names_are_escaped():
    model = cnn.serial(**{"<b>": cnn.serial(inner=cnn.conv(2, 3))})
    text = cnn.inspect.summary(model, (8, 8, 1))._repr_html_()
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert "\u2003inner" in text
