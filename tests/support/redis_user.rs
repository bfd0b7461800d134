//! The users of Redis that `docs/redis.md` names, with the rights that it lists.

use super::machine::repository;
use super::redis_server::RedisServer;

pub const PASSWORD: &str = "s3cret%/";

/// A user as the page writes it.
#[derive(Clone)]
pub struct RedisUser {
    name: String,
    /// What follows the name in `ACL SETUSER`.
    rights: Vec<String>,
}

impl RedisUser {
    /// The one of this name.
    pub fn documented(name: &str) -> RedisUser {
        let page = std::fs::read_to_string(repository().join("docs/redis.md")).unwrap();
        let start = format!("ACL SETUSER {name} ");
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(&start));
        let line = lines.next().expect("the page has the line");
        assert_eq!(lines.next(), None, "it has one");
        let rights = line
            .split(' ')
            .map(|right| right.replace("PASSWORD", PASSWORD));
        RedisUser {
            name: name.to_owned(),
            rights: rights.collect(),
        }
    }

    /// With `store.namespace`: each name of a key or channel begins with it.
    pub fn in_namespace(mut self, namespace: &str) -> RedisUser {
        for right in &mut self.rights {
            if right.starts_with(['~', '&']) {
                right.insert_str(1, &format!("{namespace}:"));
            }
        }
        self
    }

    pub fn and(mut self, right: &str) -> RedisUser {
        self.rights.push(right.to_owned());
        self
    }

    pub fn without(mut self, right: &str) -> RedisUser {
        let before = self.rights.len();
        self.rights.retain(|it| it != right);
        assert_eq!(self.rights.len() + 1, before, "it had {right}");
        self
    }

    /// Lets it in, with these rights and no others, and returns the URL that it uses.
    pub fn enter(&self, redis: &RedisServer) -> String {
        let mut command = vec!["ACL", "SETUSER", &self.name, "reset"];
        command.extend(self.rights.iter().map(String::as_str));
        assert_eq!(redis.cli(&command), "OK");
        self.url(&redis.url())
    }

    /// This URL with its name and password.
    pub fn url(&self, url: &str) -> String {
        let login = format!("://{}:s3cret%25%2F@", self.name);
        url.replacen("://", &login, 1)
    }

    /// What `redis-cli` says to it, word for word.
    pub fn cli(&self, redis: &RedisServer, command: &[&str]) -> String {
        let login = [
            "--no-auth-warning",
            "--user",
            &self.name,
            "--pass",
            PASSWORD,
        ];
        redis.cli(&[&login[..], command].concat())
    }
}
