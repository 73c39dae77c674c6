// A member of a group on RabbitMQ: consumer URL QUEUE GROUP [MAX]. Prints each record's name, answers it, and only then
// acknowledges it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	url, queue, group, most := os.Args[1], os.Args[2], os.Args[3], -1
	if len(os.Args) > 4 {
		most = must(strconv.Atoi(os.Args[4]))
	}
	connection := must(amqp.Dial(url))
	defer connection.Close()
	channel := must(connection.Channel())
	must(0, channel.Confirm(false))
	must(0, channel.Qos(100, 0, false))
	for message := range must(channel.Consume(queue, "", false, false, false, false, nil)) {
		fmt.Println(message.MessageId, message.RoutingKey, len(message.Body)) // do the work here
		answer := amqp.Publishing{CorrelationId: message.CorrelationId, DeliveryMode: amqp.Persistent,
			Headers: amqp.Table{"clb-group": group}}
		confirm := must(channel.PublishWithDeferredConfirmWithContext(
			context.Background(), "clbridge.answers", message.ReplyTo, true, false, answer))
		if !confirm.Wait() {
			log.Fatal("the broker did not take the answer to ", message.MessageId)
		}
		must(0, message.Ack(false))
		if most--; most == 0 {
			return
		}
	}
}
