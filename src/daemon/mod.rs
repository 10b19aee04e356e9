//! Start order, supervision, reload, control socket.
