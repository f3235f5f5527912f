mod requests;
mod server;
mod watches;
