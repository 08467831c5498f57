package openai

// An Edit replaces the bytes from From to To by Insert.
type Edit struct {
	From, To int
	Insert   []byte
}

// AimAt appends the edits that make the request name model and, with includeUsage, ask for usage inside the stream.
// They are ascending and do not overlap; there are none for what already is as it should be. Everything else stays as
// the client wrote it: key order, spacing, number spelling, unknown fields. includeUsage does nothing to a multipart
// body. The inserted bytes are the Request's and hold until it is parsed into or reset.
func (r *Request) AimAt(model string, includeUsage bool, edits []Edit) []Edit {
	if r.pos.multipart {
		return r.aimMultipart(model, edits)
	}
	addModel := !r.HasModel
	addOptions := includeUsage && r.pos.optionsTo == 0
	if addModel || addOptions {
		from := len(r.insert)
		if addModel {
			r.insert = append(r.insert, `"model":`...)
			r.insert = appendString(r.insert, model)
		}
		if addModel && addOptions {
			r.insert = append(r.insert, ',')
		}
		if addOptions {
			r.insert = append(r.insert, `"stream_options":{"include_usage":true}`...)
		}
		if !r.pos.empty {
			r.insert = append(r.insert, ',')
		}
		edits = append(edits, Edit{r.pos.open, r.pos.open, r.insert[from:]})
	}
	first := len(edits)
	if r.HasModel && r.Model != model {
		from := len(r.insert)
		r.insert = appendString(r.insert, model)
		edits = append(edits, Edit{r.pos.modelFrom, r.pos.modelTo, r.insert[from:]})
	}
	if includeUsage && !r.WantsUsage && !addOptions {
		edits = append(edits, r.askForUsage())
	}
	if n := len(edits); n-first == 2 && edits[first].From > edits[first+1].From {
		edits[first], edits[first+1] = edits[first+1], edits[first]
	}
	return edits
}

// askForUsage is the edit of stream_options that are there but do not ask for usage.
func (r *Request) askForUsage() Edit {
	from := len(r.insert)
	p := &r.pos
	switch {
	case p.usageTo > 0:
		r.insert = append(r.insert, "true"...)
		return Edit{p.usageFrom, p.usageTo, r.insert[from:]}
	case p.optionsOpen == 0: // null
		r.insert = append(r.insert, `{"include_usage":true}`...)
		return Edit{p.optionsFrom, p.optionsTo, r.insert[from:]}
	}
	r.insert = append(r.insert, `"include_usage":true`...)
	if !p.optionsEmpty {
		r.insert = append(r.insert, ',')
	}
	return Edit{p.optionsOpen, p.optionsOpen, r.insert[from:]}
}

// EditedLen is the length of body with edits made.
func EditedLen(body []byte, edits []Edit) int {
	n := len(body)
	for _, e := range edits {
		n += len(e.Insert) - (e.To - e.From)
	}
	return n
}

// AppendEdited appends body with edits made to dst.
func AppendEdited(dst, body []byte, edits []Edit) []byte {
	at := 0
	for _, e := range edits {
		dst = append(dst, body[at:e.From]...)
		dst = append(dst, e.Insert...)
		at = e.To
	}
	return append(dst, body[at:]...)
}
