-- What happens to an upstream's answer when the client that asked for it has left: its work is ended and what had passed
-- is billed as an estimate, or it is read on, within bounds, to the exact bill.

-- +goose Up
ALTER TABLE client_settings ADD COLUMN on_client_gone text NOT NULL DEFAULT 'cancel'
    CHECK (on_client_gone IN ('cancel', 'read_on'));
