-- What happens to an upstream's answer when the client that asked for it has left; as in postgres/00007_on_client_gone.sql.

-- +goose Up
ALTER TABLE client_settings ADD COLUMN on_client_gone TEXT NOT NULL DEFAULT 'cancel'
    CHECK (on_client_gone IN ('cancel', 'read_on'));
