//! MQTT listeners, sessions and the router
