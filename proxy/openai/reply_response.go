package openai

import (
	"strconv"
	"strings"
)

// response appends the reply as a response object: in_progress while a stream begins, completed at its end.
func (p *Reply) response(dst []byte, status string) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, p.ID)
	dst = append(dst, `,"object":"response","created_at":`...)
	dst = strconv.AppendInt(dst, p.Created, 10)
	dst = append(dst, `,"status":"`...)
	dst = append(dst, status...)
	dst = append(dst, `","background":false,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"max_tool_calls":null,"model":`...)
	dst = appendString(dst, p.Model)
	dst = append(dst, `,"output":[`...)
	if status == "completed" {
		dst = p.message(dst, status)
	}
	dst = append(dst, `],"parallel_tool_calls":true,"previous_response_id":`...)
	dst = appendStringOrNull(dst, p.Previous)
	dst = append(dst, `,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default",`+
		`"store":false,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],`+
		`"top_logprobs":0,"top_p":1.0,"truncation":"disabled","usage":`...)
	if status == "completed" {
		dst = append(dst, `{"input_tokens":0,"input_tokens_details":{"cached_tokens":0},"output_tokens":0,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":0}`...)
	} else {
		dst = append(dst, `null`...)
	}
	return append(dst, `,"user":null,"metadata":{}}`...)
}

// messageID is the id of the message in the response.
func (p *Reply) messageID() string { return "msg_" + strings.TrimPrefix(p.ID, "resp_") }

// message appends the output's only item: empty while it is in progress.
func (p *Reply) message(dst []byte, status string) []byte {
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, p.messageID())
	dst = append(dst, `,"type":"message","status":"`...)
	dst = append(dst, status...)
	dst = append(dst, `","role":"assistant","content":[`...)
	if status == "completed" {
		dst = textPart(dst, p.Text)
	}
	return append(dst, `]}`...)
}

// textPart appends a piece of content.
func textPart(dst []byte, text string) []byte {
	dst = append(dst, `{"type":"output_text","annotations":[],"logprobs":[],"text":`...)
	return append(appendString(dst, text), '}')
}

// responseStream appends the events of a response.
func (p *Reply) responseStream(dst []byte) []byte {
	n := int64(0)
	begin := func(kind string) {
		dst = append(dst, "event: response."...)
		dst = append(dst, kind...)
		dst = append(dst, "\ndata: {\"type\":\"response."...)
		dst = append(dst, kind...)
		dst = append(dst, `","sequence_number":`...)
		dst = strconv.AppendInt(dst, n, 10)
		n++
	}
	end := func() { dst = append(dst, "}\n\n"...) }
	whole := func(kind, status string) {
		begin(kind)
		dst = append(dst, `,"response":`...)
		dst = p.response(dst, status)
		end()
	}
	item := func(kind, status string) {
		begin(kind)
		dst = append(dst, `,"output_index":0,"item":`...)
		dst = p.message(dst, status)
		end()
	}
	place := func(kind string) {
		begin(kind)
		dst = append(dst, `,"item_id":`...)
		dst = appendString(dst, p.messageID())
		dst = append(dst, `,"output_index":0,"content_index":0`...)
	}
	text := func(kind, member string) {
		place(kind)
		dst = append(dst, `,"`+member+`":`...)
		dst = appendString(dst, p.Text)
		dst = append(dst, `,"logprobs":[]`...)
		end()
	}
	part := func(kind, text string) {
		place(kind)
		dst = append(dst, `,"part":`...)
		dst = textPart(dst, text)
		end()
	}
	whole("created", "in_progress")
	whole("in_progress", "in_progress")
	item("output_item.added", "in_progress")
	part("content_part.added", "")
	if p.Text != "" {
		text("output_text.delta", "delta")
	}
	text("output_text.done", "text")
	part("content_part.done", p.Text)
	item("output_item.done", "completed")
	whole("completed", "completed")
	return dst
}
