//! Styles and scripts, which are part of the program.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use service::Problem;

use super::Failed;

pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let (kind, text) = match name.as_str() {
        "style.css" => ("text/css", include_str!("../../assets/style.css")),
        "page.js" => ("text/javascript", include_str!("../../assets/page.js")),
        // htmx 2.0.10, https://htmx.org, under the Zero-Clause BSD licence that lies beside it.
        "htmx.js" => ("text/javascript", include_str!("../../assets/htmx.min.js")),
        "icon.svg" => ("image/svg+xml", include_str!("../../assets/icon.svg")),
        _ => {
            let none = Problem::new(StatusCode::NOT_FOUND, format!("no file {name}"));
            return Failed::from(none).into_response();
        }
    };
    // The next version of the program brings others.
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")], text).into_response()
}
