package metering

import "encoding/json"

// A catalog is its models, wherever it travels: the order of names and prices is worked out again where it arrives.

// MarshalJSON writes the models.
func (c *Catalog) MarshalJSON() ([]byte, error) {
	if len(c.models) == 0 {
		return []byte("[]"), nil // null would be no catalog at all
	}
	return json.Marshal(c.models)
}

// UnmarshalJSON reads the models. A catalog is never changed: it must be a new one.
func (c *Catalog) UnmarshalJSON(b []byte) error {
	var models []Model
	if err := json.Unmarshal(b, &models); err != nil {
		return err
	}
	*c = *NewCatalog(models)
	return nil
}
