//! `/openapi.json`: all that is served, as OpenAPI 3.1 describes it, for tools and for generated clients.
//!
//! The description is written by hand in `openapi.json`; the tests hold that it names every route and
//! method, and no other.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Route;
use crate::server::access::RequestKind;

const DESCRIPTION: &str = include_str!("openapi.json");

/// The route of the description.
pub(super) fn routes() -> Vec<Route> {
    vec![Route::new("/openapi.json", RequestKind::Open, get(async || description()))]
}

fn description() -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers, DESCRIPTION).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::http::Method;
    use axum::http::header::ALLOW;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use serde_json::{Value, json};

    use super::super::routes;
    use super::DESCRIPTION;

    /// The methods of each path of the description; HEAD comes with GET.
    fn described(paths: &Value) -> BTreeMap<String, BTreeSet<String>> {
        let methods = |item: &Value| {
            let methods = item.as_object().unwrap().keys().filter(|name| *name != "parameters");
            methods.map(|method| method.to_ascii_uppercase()).collect()
        };
        let paths = paths.as_object().unwrap();
        paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
    }

    #[tokio::test]
    async fn every_route_is_described_and_nothing_else_is() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut routed = BTreeMap::new();
        for route in routes() {
            let router = TowerToHyperService::new(Router::new().route(route.path, route.methods));
            let path = route.path.replace("{*", "{");
            let uri = path.replace(['{', '}'], "");
            // A method that nobody serves is answered with those that are.
            let request = Request::builder().method("TRACE").uri(uri).body(Body::empty()).unwrap();
            let response = router.call(request).await.unwrap();
            let allowed = response.headers()[ALLOW].to_str().unwrap().to_owned();
            let allowed = allowed.split(',').filter(|method| *method != "HEAD");
            routed.insert(path, allowed.map(str::to_owned).collect());
        }
        assert_eq!(described(&description["paths"]), routed);
    }

    #[test]
    fn each_operation_is_described_with_the_role_that_its_route_asks_for() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        for route in routes() {
            let item = &description["paths"][route.path.replace("{*", "{")];
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let expected = match route.kind(&method).needs() {
                    None => json!([]),
                    Some(role) => json!([{ "token": [role.name()] }, {}]),
                };
                assert_eq!(operation["security"], expected, "{method} {}", route.path);
            }
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_each_operation_has_its_own_name() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut names = BTreeSet::new();
        let mut left = vec![&description];
        while let Some(value) = left.pop() {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(name)) = members.get("operationId") {
                        assert!(names.insert(name), "{name} is there twice");
                    }
                    if let Some(Value::String(place)) = members.get("$ref") {
                        let found = place.strip_prefix('#').and_then(|at| description.pointer(at));
                        assert!(found.is_some(), "{place}");
                    }
                    left.extend(members.values());
                }
                Value::Array(items) => left.extend(items),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
    }
}
