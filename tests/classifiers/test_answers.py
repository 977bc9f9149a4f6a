"""Case lines in, answer lines out."""

from classifiers.answers import answer_case


def test_a_case_is_answered_after_its_session():
    case = {"id": "a", "sql": "FETCH ALL FROM c", "session": ["BEGIN", "DECLARE c CURSOR FOR SELECT * FROM secrets"]}
    answer = answer_case(case)
    assert answer["id"] == "a"
    assert answer["reads"] == ["secrets"]
    assert "dml_read" in answer["kinds"]


def test_a_session_can_change_how_strings_are_read():
    case = {
        "id": "b",
        "sql": "SELECT 'a\\' , v FROM secrets -- '",
        "session": ["SET standard_conforming_strings = off"],
    }
    assert answer_case(case)["reads"] == []
    assert answer_case({**case, "session": []})["reads"] == ["secrets"]


def test_execute_is_called_dynamic_even_where_its_name_is_known():
    answer = answer_case({"id": "c", "sql": "EXECUTE p", "session": ["PREPARE p AS DELETE FROM t"]})
    assert {"dynamic", "dml_write"} <= set(answer["kinds"])
    assert "unknown_prepared" not in answer["flags"]


def test_bytes_come_with_their_encoding():
    answer = answer_case(
        {"id": "d", "sql": "", "sql_hex": b"SELECT '\x95\x5c' , v FROM secrets -- '".hex(), "charset": "SJIS"}
    )
    assert answer["kinds"] == ["unparsable"]


def test_the_server_of_a_case_decides_on_new_number_forms():
    assert answer_case({"id": "e", "sql": "SELECT 1_0", "server": "..14"})["kinds"] == ["unparsable"]
    assert answer_case({"id": "e", "sql": "SELECT 1_0", "server": "16+"})["kinds"] == ["dml_read"]
