//! kubernetes_logins
