//! What tokens, roles and labels let somebody do.
#![allow(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod fakes;

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::http::StatusCode;
use axum::routing::{delete, get, post, put};
use axum::{Json, response::IntoResponse};
use fakes::{Rest, restorer};
use reqwest::Method;
use serde_json::{Value, json};

/// Has a checkpoint of team web, and one of team db.
fn dumper() -> Router {
    let summary = |name: &str, team: &str| {
        json!({"directory": name, "created_ms": 1, "image_bytes": 5, "pid": 7, "comm": "x",
            "processes": 1, "threads": 1, "labels": {"team": team}})
    };
    let one = move |Path(name): Path<String>| async move {
        match name.as_str() {
            "web" | "db" => (StatusCode::OK, Json(summary(&name, &name))).into_response(),
            _ => (StatusCode::NOT_FOUND, Json(json!({"detail": "none"}))).into_response(),
        }
    };
    let gone = delete(|| async { StatusCode::NO_CONTENT });
    // What was asked comes back.
    let list = get(|RawQuery(query): RawQuery| async move {
        Json(
            json!({"checkpoints": [], "next": query, "unfinished": [{"path": "x", "bytes": 1, "being_written": true}]}),
        )
    });
    let label = put(|Path(name): Path<String>, Json(labels): Json<Value>| async move {
        Json(json!({"directory": name, "created_ms": 1, "image_bytes": 5, "pid": 7, "comm": "x",
            "processes": 1, "threads": 1, "labels": labels}))
    });
    Router::new()
        .route("/v1/checkpoints", list)
        .route("/v1/checkpoints/{*directory}", get(one).merge(gone))
        .route("/v1/labels/{*directory}", label)
        .route("/v1/processes", get(|| async { Json(json!({"processes": []})) }))
}

async fn stack() -> Rest {
    let rest = Rest::start().await;
    rest.fake("restorer", restorer());
    rest.fake("collector", Router::new());
    rest.fake("dumper", dumper());
    rest
}

impl Rest {
    async fn give(&self, request: &Value) -> String {
        let (status, made) = self.post("/v1/tokens", &request.to_string()).await;
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }

    async fn with(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let response = match body.is_null() {
            true => request.send().await.unwrap(),
            false => request.json(&body).send().await.unwrap(),
        };
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }
}

#[tokio::test]
async fn a_role_is_what_it_says() {
    let rest = stack().await;
    let requests = [
        // What each takes: view, checkpoint, restore, admin of all.
        (Method::GET, "/v1/checkpoints", Value::Null, "view"),
        (Method::GET, "/v1/jobs", Value::Null, "view"),
        (Method::GET, "/v1/processes", Value::Null, "view"),
        (Method::GET, "/metrics", Value::Null, "view"),
        (Method::POST, "/v1/checkpoints", json!({"pid": -1, "leave_running": true}), "checkpoint"),
        (Method::POST, "/v1/verifications", json!({"directory": "no"}), "checkpoint"),
        (Method::PUT, "/v1/labels/web", json!({"a": "b"}), "checkpoint"),
        (Method::POST, "/v1/restores", json!({"directory": "no"}), "restore"),
        (Method::DELETE, "/v1/checkpoints/web", Value::Null, "admin"),
        (Method::GET, "/v1/tokens", Value::Null, "admin"),
        (Method::POST, "/v1/tokens", json!({"name": "", "roles": []}), "admin"),
        (Method::DELETE, "/v1/tokens/no", Value::Null, "admin"),
    ];
    for role in ["view", "checkpoint", "restore", "admin"] {
        let token = rest.give(&json!({"name": role, "roles": [role]})).await;
        for (method, path, body, takes) in requests.clone() {
            let (status, answer) = rest.with(&token, method.clone(), path, body).await;
            let may = role == "admin" || takes == "view" || takes == role;
            assert_eq!(status != 403, may, "{role}: {method} {path}: {status} {answer}");
        }
    }
    let (_, list) = rest.get("/v1/tokens").await;
    let names: Vec<&str> =
        list["tokens"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["admin", "checkpoint", "restore", "view"]);
}

#[tokio::test]
async fn who_is_bound_to_labels_sees_and_does_nothing_else() {
    let rest = stack().await;
    let bound = json!({"name": "web", "roles": ["admin"], "labels": {"team": "web"}});
    let token = rest.give(&bound).await;
    let ask = async |method, path: &str, body| rest.with(&token, method, path, body).await;

    assert_eq!(ask(Method::GET, "/v1/checkpoints/web", Value::Null).await.0, 200);
    assert_eq!(ask(Method::GET, "/v1/checkpoints/db", Value::Null).await.0, 404);
    assert_eq!(ask(Method::DELETE, "/v1/checkpoints/web", Value::Null).await.0, 204);
    assert_eq!(ask(Method::DELETE, "/v1/checkpoints/db", Value::Null).await.0, 404);
    for path in ["/v1/verifications", "/v1/restores"] {
        for directory in ["db", "no"] {
            let found = ask(Method::POST, path, json!({"directory": directory})).await;
            assert_eq!(found.0, 404, "{path} {directory}: {found:?}");
        }
    }
    let (status, job) = ask(Method::POST, "/v1/verifications", json!({"directory": "web"})).await;
    assert_eq!((status, &job["labels"]["team"]), (202, &json!("web")), "{job}");

    let (_, list) = ask(Method::GET, "/v1/checkpoints?limit=3&labels=a%3Db", Value::Null).await;
    let asked = list["next"].as_str().unwrap();
    assert!(asked.contains("limit=3") && asked.contains("labels=a%3Db%2Cteam%3Dweb"), "{asked}");
    assert!(list["unfinished"].is_null(), "{list}");
    assert_eq!(ask(Method::GET, "/v1/checkpoints?labels=team%3Ddb", Value::Null).await.0, 422);
    assert_eq!(ask(Method::GET, "/v1/checkpoints?no=1", Value::Null).await.0, 422);

    // What it labels keeps the label that it is bound to.
    let (_, labelled) = ask(Method::PUT, "/v1/labels/web", json!({"a": "b"})).await;
    assert_eq!(labelled["labels"], json!({"a": "b", "team": "web"}));
    assert_eq!(ask(Method::PUT, "/v1/labels/web", json!({"team": "db"})).await.0, 422);
    assert_eq!(ask(Method::PUT, "/v1/labels/db", json!({})).await.0, 404);
    let other = json!({"pid": 1, "leave_running": true, "labels": {"team": "db"}});
    let (status, answer) = ask(Method::POST, "/v1/checkpoints", other).await;
    assert_eq!((status, &answer["field"]), (422, &json!("labels")), "{answer}");

    for path in ["/v1/tokens", "/metrics"] {
        assert_eq!(ask(Method::GET, path, Value::Null).await.0, 403, "{path}");
    }
    // Jobs of others are not seen.
    let (status, job) = rest.post("/v1/verifications", r#"{"directory": "db"}"#).await;
    assert_eq!(status, 202, "{job}");
    let id = job["id"].as_str().unwrap();
    assert_eq!(ask(Method::GET, &format!("/v1/jobs/{id}"), Value::Null).await.0, 404);
}

/// Trees that were restored are of their checkpoints' labels, and so is what is tracked of them.
#[tokio::test]
async fn who_is_bound_to_labels_sees_the_trees_and_tracks_that_are_of_them() {
    let rest = Rest::start().await;
    let tree = |team: &str, pid: u32, running: bool| json!({"directory": team, "labels": {"team": team}, "pid": pid, "running": running});
    let mut trees =
        [tree("web", 7, true), tree("db", 8, true), tree("none", 9, true), tree("web", 10, false)];
    trees[2].as_object_mut().unwrap().remove("labels");
    let trees = get(move || async move { Json(json!({"restores": trees})) });
    rest.fake("restorer", Router::new().route("/v1/restores", trees));
    let track = |id: u64, target: Value| json!({"id": id, "target": target, "files": false, "created_ms": 1, "stale": false, "lost": 0, "tree": 1, "processes": []});
    let all = [json!({"tree": 7}), json!({"tree": 8}), json!({"cgroup": "/"}), json!({"pid": 10})];
    let all = move |id: u64| track(id, all[id as usize].clone());
    let (list, one) = (all.clone(), all.clone());
    let list =
        get(move || async move { Json(json!({"tracks": (0..4).map(list).collect::<Vec<_>>()})) });
    let one = get(move |Path(id): Path<u64>| async move { Json(one(id)) });
    let gone = delete(|| async { StatusCode::NO_CONTENT });
    let begin = post(move || async move { (StatusCode::CREATED, Json(all(0))) });
    let collector = Router::new()
        .route("/v1/tracks", list.merge(begin))
        .route("/v1/tracks/{id}", one.merge(gone))
        .route("/v1/tracks/{id}/inventory", get(|| async { Json(json!({})) }));
    rest.fake("collector", collector);
    rest.fake("dumper", dumper());
    let bound = json!({"name": "web", "roles": ["admin"], "labels": {"team": "web"}});
    let token = rest.give(&bound).await;
    let ask = async |method, path: &str, body| rest.with(&token, method, path, body).await;

    let (_, found) = ask(Method::GET, "/v1/restores", Value::Null).await;
    let found = found["restores"].as_array().unwrap();
    assert_eq!(found.iter().map(|it| &it["pid"]).collect::<Vec<_>>(), [7, 10]);
    let (_, found) = ask(Method::GET, "/v1/tracks", Value::Null).await;
    let found = found["tracks"].as_array().unwrap();
    assert_eq!(found.iter().map(|it| &it["id"]).collect::<Vec<_>>(), [0]);
    for (id, may) in [(0, true), (1, false), (2, false), (3, false)] {
        for (method, path) in [
            (Method::GET, format!("/v1/tracks/{id}")),
            (Method::GET, format!("/v1/tracks/{id}/inventory")),
            (Method::DELETE, format!("/v1/tracks/{id}")),
        ] {
            let (status, answer) = ask(method, &path, Value::Null).await;
            assert_eq!(status == 404, !may, "{path}: {status} {answer}");
        }
    }
    for (body, status) in
        [(json!({"tree": 7}), 201), (json!({"tree": 8}), 403), (json!({"cgroup": "/"}), 403)]
    {
        assert_eq!(ask(Method::POST, "/v1/tracks", body.clone()).await.0, status, "{body}");
    }
    // To who is bound to nothing all is told.
    assert_eq!(rest.get("/v1/restores").await.1["restores"].as_array().unwrap().len(), 4);
    assert_eq!(rest.get("/v1/tracks").await.1["tracks"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_token_taken_back_or_over_is_good_for_nothing() {
    let rest = stack().await;
    for wrong in [
        json!({"name": "a b", "roles": ["view"]}),
        json!({"name": "x", "roles": []}),
        json!({"name": "x", "roles": ["root"]}),
        json!({"name": "x", "roles": ["view"], "user": "no-such-user"}),
        json!({"name": "x", "roles": ["view"], "lasts": "0s"}),
        json!({"name": "x", "roles": ["view"], "lasts": "soon"}),
        json!({"name": "x", "roles": ["view"], "labels": {"a": "b,c"}}),
    ] {
        let (status, answer) = rest.post("/v1/tokens", &wrong.to_string()).await;
        assert!(status == 422 && answer["remedy"].is_string(), "{wrong}: {status} {answer}");
    }
    let token = rest.give(&json!({"name": "x", "roles": ["view"], "lasts": "1h"})).await;
    assert_eq!(rest.post("/v1/tokens", r#"{"name": "x", "roles": ["view"]}"#).await.0, 409);
    assert_eq!(rest.with(&token, Method::GET, "/v1/jobs", Value::Null).await.0, 200);
    let (_, told) = rest.get("/v1/tokens").await;
    assert!(!told.to_string().contains(&token));
    let request = rest.http.delete(format!("{}/v1/tokens/x", rest.url)).bearer_auth(&rest.token);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 204);
    assert_eq!(rest.with(&token, Method::GET, "/v1/jobs", Value::Null).await.0, 401);

    let user = json!({"name": "daemon", "roles": ["admin"], "user": "daemon"});
    let token = rest.give(&user).await;
    let (_, told) = rest.get("/v1/tokens").await;
    assert_eq!(told["tokens"][0]["uid"], 1);
    assert_eq!(rest.with(&token, Method::GET, "/v1/tokens", Value::Null).await.0, 403);
    assert_eq!(rest.with(&token, Method::GET, "/metrics", Value::Null).await.0, 403);
}
