//! The description of the API for programs (OpenAPI 3.1), which is made from the code: from the handlers' and the types' own words.

use std::collections::BTreeMap;

use api::ErrorBody;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Info, OpenApi, Paths, Ref, RefOr, Response, ResponseBuilder, Server,
    schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type},
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

/// What is answered where something is wrong.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let schema = RefOr::<Schema>::Ref(Ref::from_schema_name(ErrorBody::name()));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let problem = ResponseBuilder::new()
            .description("A problem: `code` says which, `remedy` what helps")
            .content(ErrorBody::MEDIA_TYPE, content)
            .build();
        BTreeMap::from([("default".to_owned(), RefOr::T(problem))])
    }
}

/// A body that is no JSON, but an archive.
pub(crate) struct Archive;

impl PartialSchema for Archive {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Archive {}

/// What is said of the API as a whole.
pub(crate) fn document() -> OpenApi {
    let mut info = Info::new("stasis", env!("CARGO_PKG_VERSION"));
    info.description =
        Some("Checkpoint and restore for running processes and containers.".to_owned());
    let mut document = OpenApi::new(info, Paths::new());
    document.servers = Some(vec![Server::new("http://127.0.0.1:7437")]);
    let mut schemas = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    let components = document.components.get_or_insert_default();
    components.schemas.extend(schemas);
    // On the Unix socket the kernel says who asks.
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("The gateway's token, over TCP"))
        .build();
    components.add_security_scheme("token", SecurityScheme::Http(token));
    document.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
    document
}

/// The description as it is served. A directory is all that is left of a path, which OpenAPI has no word for.
pub(crate) fn text(document: &OpenApi) -> String {
    document.to_pretty_json().unwrap_or_default().replace("{*directory}", "{directory}")
}
