package openai

import (
	"slices"
	"strconv"
)

// OutputField is the member that limits the output at an endpoint; "" where there is none. OpenAI itself refuses
// max_tokens for models that reason, and knows max_completion_tokens for all; the gateway and the compatibility layers
// document max_tokens.
func OutputField(k Kind, provider string, gateway bool) string {
	switch k {
	case Chat:
		if !gateway && provider == "openai" {
			return fieldNames[limitCompletion]
		}
		return fieldNames[limitTokens]
	case Completions:
		return fieldNames[limitTokens]
	case Responses:
		return fieldNames[limitOutput]
	}
	return ""
}

var fieldNames = [...]string{limitTokens: "max_tokens", limitCompletion: "max_completion_tokens", limitOutput: "max_output_tokens"}

// LimitOutput adds to edits, which are those of AimAt or none, what makes the request ask for at most most tokens for
// each choice: it lowers the limits that the endpoint heeds, and where there is none it writes field, unless that is "".
// The edits stay ascending. A limit of zero, which means none to some, is none; that of a completion, which asks for no
// text, stays.
func (r *Request) LimitOutput(k Kind, field string, most int64, edits []Edit) []Edit {
	if r.pos.multipart || most <= 0 {
		return edits
	}
	limited, written := false, false
	for i, name := range fieldNames {
		at := r.pos.limits[i]
		if at.to == 0 || !heeds(k, i) {
			continue
		}
		n := r.limits[i] - 1
		limited = limited || n >= 0
		if n > most || n == 0 && k != Completions || n < 0 && name == field && r.OutputLimit(k) < 0 {
			edits = insertEdit(edits, Edit{at.from, at.to, r.number(most)})
			written = written || n < 0
		}
	}
	if limited || written || field == "" {
		return edits
	}
	return r.addLimit(field, most, edits)
}

// heeds says that an endpoint follows a limit.
func heeds(k Kind, limit int) bool {
	switch k {
	case Chat:
		return limit != limitOutput
	case Completions:
		return limit == limitTokens
	case Responses:
		return limit == limitOutput
	}
	return false
}

// addLimit writes a limit in front of all members, behind what AimAt writes there.
func (r *Request) addLimit(field string, most int64, edits []Edit) []Edit {
	at := 0
	for at < len(edits) && edits[at].From <= r.pos.open && edits[at].To <= r.pos.open {
		at++
	}
	from := len(r.insert)
	if r.pos.empty && at > 0 {
		r.insert = append(r.insert, ',')
	}
	r.insert = append(r.insert, '"')
	r.insert = append(r.insert, field...)
	r.insert = append(r.insert, '"', ':')
	r.insert = strconv.AppendInt(r.insert, most, 10)
	if !r.pos.empty {
		r.insert = append(r.insert, ',')
	}
	return slices.Insert(edits, at, Edit{r.pos.open, r.pos.open, r.insert[from:]})
}

// number is n in digits, kept with what edits insert.
func (r *Request) number(n int64) []byte {
	from := len(r.insert)
	r.insert = strconv.AppendInt(r.insert, n, 10)
	return r.insert[from:]
}

// insertEdit puts an edit where it belongs.
func insertEdit(edits []Edit, e Edit) []Edit {
	at := len(edits)
	for at > 0 && edits[at-1].From > e.From {
		at--
	}
	return slices.Insert(edits, at, e)
}

// FitOutput is the highest limit for each choice with which Worst's Output is at most room; 0 when none is.
func (r *Request) FitOutput(k Kind, m *Limits, room int64) int64 {
	choices := r.N
	if k == Completions {
		choices *= max(r.load.prompts, 1)
	}
	one := room/choices - r.load.prediction
	f, top := familyOf(m), mostOutput(m)
	switch {
	case top > 0 && one >= top:
		return top
	case f.addsThinking && r.Options:
		return 0
	case f.addsThinking:
		// Whichever of the two that are added is more.
		most := one - r.load.thinking
		if r.load.effort {
			most = min(most, one/2, one-1024)
		}
		one = most
	}
	return max(min(one, maxTokens), 0)
}
