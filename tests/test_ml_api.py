"""Models over REST: trained, asked, listed, activated, deleted, and the readings they were given."""

from __future__ import annotations

import io
import json
import math
from typing import get_args
from urllib.parse import quote

import pytest

from api.ml_schemas import Algorithm
from ml.algorithms import ALGORITHMS
from tests.factories import make_device
from tests.ml_streams import METRIC, STEP, STREAM_START, make_rows, make_values

TRAIN = "/api/v1/ml/models/train"
PREDICT = "/api/v1/ml/predict"
BATCH = "/api/v1/ml/predict/batch"
MODELS = "/api/v1/ml/models"


@pytest.fixture
def train(client, headers):
    """Train a model as an engineer and return it: ``train(device, 700)``."""

    def post(device, rows=700, status=201, **fields):
        body = {
            "device_id": device,
            "metric": METRIC,
            "rows": make_rows(rows) if isinstance(rows, int) else rows,
            **fields,
        }
        response = client.post(TRAIN, json=body, headers=headers("engineer"))
        assert response.status_code == status, response.json
        return response.json

    return post


@pytest.fixture
def predict(client, headers):
    """Give a reading as a device and return the response: ``predict(device, value, row)``."""

    def post(device, value, row=None, **fields):
        body = {"device_id": device, "metric": METRIC, "value": value, **fields}
        if row is not None:
            body["timestamp"] = (STREAM_START + STEP * row).isoformat()
        return client.post(PREDICT, json=body, headers=headers("device"))

    return post


def test_a_trained_model_answers(train, predict):
    device = make_device()
    model = train(device)
    assert (model["version"], model["status"], model["is_active"], model["progress"]) == (1, "ready", True, 1.0)
    values = make_values(720)
    for row in range(700, 710):
        answer = predict(device, values[row], row)
        assert answer.status_code == 200, answer.json
        assert answer.json["is_anomaly"] == 1
        assert answer.json["model_id"] == model["model_id"]
        assert answer.json["alert_id"] is None
    answers = [predict(device, values[row] + 60.0, row).json for row in range(710, 716)]
    assert max(answer["confidence"] for answer in answers) >= 0.70
    assert -1 in {answer["is_anomaly"] for answer in answers}


def test_every_answer_names_its_model_until_another_is_active(client, headers, train, predict):
    device = make_device()
    first, second = train(device), train(device)
    assert predict(device, 60.0, 700).json["model_id"] == second["model_id"]
    rolled_back = client.post(f"{MODELS}/{first['model_id']}/activate", headers=headers("engineer"))
    assert (rolled_back.status_code, rolled_back.json["is_active"]) == (200, True)
    assert predict(device, 60.0, 701).json["model_id"] == first["model_id"]
    listed = client.get(f"{MODELS}?device_id={device}", headers=headers("viewer")).json
    assert [(m["version"], m["is_active"]) for m in listed["data"]] == [(2, False), (1, True)]
    assert (listed["total"], listed["next_cursor"]) == (2, None)
    only = client.get(f"{MODELS}?device_id={device}&is_active=true&metric={METRIC}", headers=headers("viewer")).json
    assert [m["model_id"] for m in only["data"]] == [first["model_id"]]
    page = client.get(f"{MODELS}?limit=1", headers=headers("viewer")).json
    rest = client.get(f"{MODELS}?limit=1&cursor={page['next_cursor']}", headers=headers("viewer")).json
    assert [m["version"] for m in page["data"] + rest["data"]] == [2, 1]


def test_without_a_model_the_answer_says_how_to_train_one(predict):
    answer = predict(make_device(), 60.0)
    assert (answer.status_code, answer.json["code"]) == (404, "model_not_found")
    assert "/ml/models/train" in answer.json["error"]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"value": NaN}', "value"),
        ('{"value": Infinity}', "value"),
        ('{"value": -Infinity}', "value"),
        ('{"value": 1e999}', "value"),
        ('{"value": "60"}', "value"),
        ('{"value": true}', "value"),
        ('{"value": null}', "value"),
        ('{"value": 1, "metric": ""}', "metric"),
        ('{"value": 1, "metric": 7}', "metric"),
        ('{"value": 1, "device_id": "press-7"}', "device_id"),
        ('{"value": 1, "timestamp": "2026-01-05T00:00:00"}', "timestamp"),
        ('{"value": 1, "timestamp": 1767571200}', "timestamp"),
        ('{"value": 1, "timestamp": "2026-03-02T08:05:01Z"}', "timestamp"),
        ('{"value": 1, "values": [1]}', "values"),
    ],
)
def test_what_is_no_reading_is_refused_and_named(client, headers, train, sql, raw, field):
    device = make_device()
    train(device, 30)
    body = {"device_id": device, "metric": METRIC, **json.loads(raw)}
    answer = client.post(PREDICT, data=json.dumps(body), content_type="application/json", headers=headers("device"))
    assert answer.status_code == 400, answer.json
    assert [fault["field"] for fault in answer.json["details"]] == [field]
    assert sql("SELECT count(*) FROM telemetry") == [(0,)]


@pytest.mark.parametrize("value", [0, -0.0, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 10**15])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "2026-03-02T08:05:00Z", "2026-03-02"])
def test_any_finite_value_and_any_past_time_is_a_reading(train, predict, value, at):
    device = make_device()
    train(device, 300)
    answer = predict(device, value, timestamp=at)
    assert answer.status_code == 200, answer.json
    assert 0.0 <= answer.json["confidence"] <= 1.0


def test_a_batch_answers_each_reading_in_its_place(client, headers, train):
    device = make_device()
    model = train(device)
    good = {"device_id": device, "metric": METRIC, "value": 60.0}
    readings = [
        {**good, "timestamp": (STREAM_START + STEP * 700).isoformat()},
        {**good, "value": "60"},
        7,
        {**good, "metric": "pressure"},
        {**good, "timestamp": "2031-01-01"},
        {**good, "timestamp": (STREAM_START + STEP * 701).isoformat(), "colour": "red"},
        {**good, "timestamp": (STREAM_START + STEP * 701).isoformat()},
    ]
    answer = client.post(BATCH, json={"readings": readings}, headers=headers("device"))
    assert answer.status_code == 200
    results = answer.json["data"]
    assert [r["error"] and r["error"]["code"] for r in results] == [
        None,
        "validation_failed",
        "validation_failed",
        "model_not_found",
        "validation_failed",
        "validation_failed",
        None,
    ]
    assert [[d["field"] for d in r["error"]["details"]] for r in results if r["error"]] == [
        ["value"],
        ["body"],
        [],
        ["timestamp"],
        ["colour"],
    ]
    assert results[0]["model_id"] == results[6]["model_id"] == model["model_id"]
    assert results[1]["is_anomaly"] is None


@pytest.mark.parametrize(("count", "status"), [(0, 400), (1, 200), (1000, 200), (1001, 400)])
def test_a_batch_has_one_to_a_thousand_readings(client, headers, train, count, status):
    device = make_device()
    train(device, 30)
    reading = {"device_id": device, "metric": METRIC, "value": 60.0}
    answer = client.post(BATCH, json={"readings": [reading] * count}, headers=headers("device"))
    assert answer.status_code == status
    if status == 200:
        assert len(answer.json["data"]) == count


# ---- training


def send_csv(client, headers, content, **fields):
    form = {"device_id": make_device(), "metric": METRIC, "file": (io.BytesIO(content), "readings.csv"), **fields}
    return client.post(TRAIN, data=form, content_type="multipart/form-data", headers=headers("engineer"))


def test_a_csv_file_trains_the_same_model_as_its_rows(client, headers, train, predict):
    rows = make_rows(700)
    text = "station,Timestamp, value,label\r\n"
    text += "".join(f"7,{row['timestamp'][:19].replace('T', ' ')},{row['value']!r},0\r\n" for row in rows)
    device = make_device()
    answer = send_csv(client, headers, b"\xef\xbb\xbf" + text.encode(), device_id=device)
    assert answer.status_code == 201, answer.json
    other = train(make_device())
    for name in ("training", "data_start", "data_end", "rows", "rows_seen"):
        assert answer.json[name] == other[name], name
    values = make_values(730)
    for row in range(700, 730):
        one, two = (
            predict(device, values[row] + 30.0, row).json,
            predict(other["device_id"], values[row] + 30.0, row).json,
        )
        assert (one["score"], one["confidence"]) == (two["score"], two["confidence"])


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "file"),
        (b"time,value\n2026-01-05,1\n", "file"),
        (b"timestamp,value\n", "file"),
        (b"timestamp,value\n2026-01-05,1\nyesterday,2\n", "file line 3"),
        (b"timestamp,value\n2026-01-05,warm\n", "file line 2"),
        (b"timestamp,value\n2026-01-05\n", "file line 2"),
        (b"timestamp,value\n2026-01-05,1\xff\n", "file"),
        (b"timestamp,value\n2027-01-05,1\n", "rows[0].timestamp"),
        (b"timestamp,value\n2026-01-05,\n2026-01-06,nan\n", "rows"),
    ],
)
def test_a_file_that_cannot_be_learnt_is_refused_and_its_line_named(client, headers, content, field):
    answer = send_csv(client, headers, content)
    assert answer.status_code == 400, answer.json
    assert [fault["field"] for fault in answer.json["details"]] == [field]


def test_an_upload_is_checked_like_a_body(client, headers):
    content = b"timestamp,value\n2026-01-05,1\n"
    answer = send_csv(client, headers, content, device_id="press-7", metric="", algorithm="guess", rows="x")
    assert {fault["field"] for fault in answer.json["details"]} == {"device_id", "metric", "algorithm", "rows"}
    assert client.post(TRAIN, data=content, content_type="text/csv", headers=headers("engineer")).status_code == 415


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rows": []}, "rows"),
        ({"rows": None}, "rows"),
        ({"from": "2026-01-05"}, "rows"),
        ({"rows": None, "to": "2026-01-05"}, "rows"),
        ({"rows": None, "from": "2026-01-05", "to": "2026-01-05"}, "to"),
        ({"rows": [{"timestamp": "2026-01-05", "value": math.nan}]}, "rows[0].value"),
        ({"rows": [{"timestamp": "2026-01-05", "value": 1}, {"value": 1}]}, "rows[1].timestamp"),
        ({"rows": [{"timestamp": "2026-03-03", "value": 1}]}, "rows[0].timestamp"),
        ({"rows": [{"timestamp": "2026-01-05", "value": None}]}, "rows"),
        ({"algorithm": "guess"}, "algorithm"),
        ({"algorithm": "isolation_forest"}, "rows"),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_named(client, headers, sql, change, field):
    body = {"device_id": make_device(), "metric": METRIC, "rows": make_rows(30), **change}
    data = json.dumps({name: value for name, value in body.items() if value is not None})
    answer = client.post(TRAIN, data=data, content_type="application/json", headers=headers("engineer"))
    assert answer.status_code == 400, answer.json
    assert [fault["field"] for fault in answer.json["details"]] == [field]
    assert sql("SELECT count(*) FROM ml_models") == [(0,)]


def test_gaps_and_disorder_in_rows_are_counted(train):
    rows = make_rows(300)
    rows[10]["value"] = None
    rows[20]["timestamp"] = rows[19]["timestamp"]
    model = train(make_device(), rows=rows)
    assert model["training"] == {"rows": 298, "rejected_values": 1, "rejected_times": 1, "step_seconds": 300.0}
    assert (model["rows"], model["rows_seen"]) == (300, 300)


def test_kept_readings_train_the_next_version(client, headers, train, predict):
    device = make_device()
    train(device, 30)
    values = make_values(400, seed=3)
    for row in range(100, 400):
        predict(device, values[row], row)
    start, end = STREAM_START + STEP * 100, STREAM_START + STEP * 300
    body = {"device_id": device, "metric": METRIC, "from": start.isoformat(), "to": end.isoformat()}
    answer = client.post(TRAIN, json=body, headers=headers("engineer"))
    assert answer.status_code == 201, answer.json
    assert (answer.json["version"], answer.json["rows"]) == (2, 200)
    assert answer.json["data_start"] == start.isoformat()
    none = client.post(TRAIN, json={**body, "metric": "pressure"}, headers=headers("engineer"))
    assert (none.status_code, none.json["details"][0]["field"]) == (400, "from")


def test_many_rows_are_taken_in_for_the_worker(client, headers):
    rows = [
        {
            "timestamp": f"2025-11-{1 + n // 2880:02}T{n // 120 % 24:02}:{n // 2 % 60:02}:{n % 2 * 30:02}Z",
            "value": n % 7,
        }
        for n in range(50_001)
    ]
    body = {"device_id": make_device(), "metric": METRIC, "rows": rows}
    answer = client.post(TRAIN, json=body, headers=headers("engineer"))
    assert (answer.status_code, answer.json["status"], answer.json["progress"]) == (202, "training", 0.0)
    assert answer.headers["Location"] == f"{MODELS}/{answer.json['model_id']}"
    shown = client.get(answer.headers["Location"], headers=headers("viewer")).json
    assert (shown["status"], shown["progress"], shown["training"], shown["is_active"]) == ("training", 0.0, None, False)


def test_a_body_over_64_mebibytes_is_too_large(client, headers):
    answer = client.post(
        TRAIN, data=b" " * (64 * 2**20 + 1), content_type="application/json", headers=headers("engineer")
    )
    assert answer.status_code == 413


# ---- answers that were lost


def test_an_anomaly_sent_again_has_the_same_answer_and_a_duplicate_alert(client, headers, train, predict, sql):
    device = make_device()
    train(device)
    said = predict(device, 180.0, 700).json
    assert said["alert_id"] is not None
    again = predict(device, 180.0, 700).json
    assert {**again, "alert_id": None} == {**said, "alert_id": None}
    duplicate = client.get(f"/api/v1/alerts/{again['alert_id']}", headers=headers("viewer")).json
    assert duplicate["duplicate_of"] == said["alert_id"]
    assert sql("SELECT count(*) FROM escalations") == [(0,)]
    other_value = predict(device, 181.0, 700).json
    assert (other_value["is_anomaly"], other_value["confidence"], other_value["alert_id"]) == (1, 0.0, None)


def test_a_batch_sent_again_has_the_answers_of_its_anomalies(client, headers, train, sql):
    device = make_device()
    train(device)
    values = [*make_values(720)[700:708], 180.0, 181.0]
    body = {
        "readings": [
            {
                "device_id": device,
                "metric": METRIC,
                "value": value,
                "timestamp": (STREAM_START + STEP * row).isoformat(),
            }
            for row, value in enumerate(values, 700)
        ]
    }
    said, again = (client.post(BATCH, json=body, headers=headers("device")).json["data"] for _ in range(2))
    assert [r["confidence"] for r in again if r["is_anomaly"] == -1] == [
        r["confidence"] for r in said if r["is_anomaly"] == -1
    ]
    assert {r["is_anomaly"] for r in said[8:]} == {-1}
    assert sql("SELECT count(*) FROM alerts WHERE duplicate_of IS NULL") == [
        (sum(r["alert_id"] is not None for r in said),)
    ]


# ---- records


def test_false_positives_count_against_their_version(client, headers, train, predict, act):
    device = make_device()
    first = train(device)
    values = make_values(800)
    alerts = {predict(device, values[row] + 60.0, row).json["alert_id"] for row in range(700, 706)} - {None}
    assert alerts
    second = train(device)
    shown = client.get(f"{MODELS}/{first['model_id']}", headers=headers("viewer")).json
    assert (shown["alerts_raised"], shown["alerts_resolved"], shown["measured_precision"]) == (len(alerts), 0, None)
    for place, alert_id in enumerate(sorted(alerts)):
        resolution = "false_positive" if place == 0 else "fixed"
        assert act(alert_id, "resolve", advance=True, resolution=resolution).status_code == 200
    shown = client.get(f"{MODELS}/{first['model_id']}", headers=headers("viewer")).json
    assert (shown["alerts_resolved"], shown["false_positives"]) == (len(alerts), 1)
    assert shown["measured_precision"] == pytest.approx(1 - 1 / len(alerts))
    assert 0.70 <= shown["promised_precision"] <= 0.90
    assert client.get(f"{MODELS}/{second['model_id']}", headers=headers("viewer")).json["alerts_raised"] == 0
    assert 'advanced_alerting_ml_false_positives_total{algorithm="surprise"} 1.0' in client.get("/metrics").text


def test_a_reporter_cannot_make_up_false_positives(client, train, raise_alert, act):
    device = make_device()
    model = train(device, 30)
    alert = raise_alert(
        device_id=device, metric=METRIC, metadata={"source": "ml_anomaly_detection", "model_id": model["model_id"]}
    )
    act(alert["alert_id"], "resolve", advance=True, resolution="false_positive")
    assert "advanced_alerting_ml_false_positives_total{" not in client.get("/metrics").text


def test_a_deleted_model_is_gone(client, headers, train, predict):
    device = make_device()
    model = train(device, 30)
    address = f"{MODELS}/{model['model_id']}"
    assert client.delete(address, headers=headers("engineer")).json["model_id"] == model["model_id"]
    assert predict(device, 60.0).status_code == 404
    for method, path in (("GET", address), ("DELETE", address), ("POST", f"{address}/activate")):
        assert client.open(path, method=method, headers=headers("engineer")).status_code == 404


def test_a_tampered_model_is_a_conflict_and_no_accident(client, headers, train, predict, sql):
    device = make_device()
    model = train(device)
    sql("UPDATE ml_models SET state = set_byte(state, 9000, get_byte(state, 9000) # 1)")
    answer = predict(device, 60.0, 700)
    assert (answer.status_code, answer.json["code"]) == (409, "model_tampered")
    assert device in answer.json["error"]
    assert client.get(f"{MODELS}/{model['model_id']}", headers=headers("viewer")).status_code == 200


# ---- kept readings


def test_kept_readings_come_back_in_order_of_time(client, headers, train, predict):
    device = make_device()
    train(device, 30)
    for row in (100, 102, 101):
        predict(device, float(row), row)
    path = f"/api/v1/devices/{device.upper()}/telemetry?metric={METRIC}"
    answer = client.get(path, headers=headers("viewer")).json
    assert [point["value"] for point in answer["data"]] == [100.0, 101.0, 102.0]
    assert (answer["total"], answer["is_thinned"], answer["device_id"]) == (3, False, device)
    start, end = (quote((STREAM_START + STEP * row).isoformat()) for row in (101, 102))
    within = client.get(f"{path}&from={start}&to={end}", headers=headers("viewer")).json
    assert [point["value"] for point in within["data"]] == [101.0]
    assert client.get(f"{path}&from={end}&to={end}", headers=headers("viewer")).status_code == 400
    assert client.get(f"/api/v1/devices/{device}/telemetry", headers=headers("viewer")).status_code == 400
    other = client.get(f"/api/v1/devices/{make_device()}/telemetry?metric=x", headers=headers("viewer"))
    assert (other.status_code, other.json["data"]) == (200, [])
    assert client.get("/api/v1/devices/press-7/telemetry?metric=x", headers=headers("viewer")).status_code == 404


@pytest.mark.parametrize(("count", "shown"), [(5000, 5000), (5001, 5000), (12_345, 5000)])
def test_many_readings_are_thinned_and_no_spike_is_lost(client, headers, train, predict, sql, count, shown):
    device = make_device()
    train(device, 30)
    predict(device, 60.0, 29)
    sql(
        "INSERT INTO telemetry SELECT s.id, n, timestamptz '2026-02-01' + n * interval '1 second',"
        " '2026-03-02 08:00+00',"
        " CASE n WHEN 4321 THEN 999 WHEN 4322 THEN -999 ELSE sin(n) END"
        " FROM ml_series AS s, generate_series(1, %s) AS n WHERE s.device_id = %s",
        count,
        device,
    )
    path = f"/api/v1/devices/{device}/telemetry?metric={METRIC}&from=2026-02-01"
    answer = client.get(path, headers=headers("viewer")).json
    assert (answer["total"], answer["is_thinned"]) == (count, count > 5000)
    assert shown - 2 <= len(answer["data"]) <= shown
    assert {999.0, -999.0} <= {point["value"] for point in answer["data"]}
    times = [point["timestamp"] for point in answer["data"]]
    assert times == sorted(times)


def test_the_names_of_the_algorithms_are_those_there_are():
    assert set(get_args(Algorithm)) == set(ALGORITHMS)
