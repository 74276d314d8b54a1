package blaze_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blaze"
)

func Example() {
	engine, err := blaze.New(map[string]any{
		"models": []any{map[string]any{"name": "digits", "path": "../../models/digits/digits.onnx"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	model, err := engine.Model("digits")
	if err != nil {
		fmt.Println(err)
		return
	}
	image := make([]float32, 64)
	for row := range 8 { // a vertical stroke
		image[8*row+3], image[8*row+4] = 1, 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	response, err := model.Infer(ctx, blaze.NewTensor(image, 1, 1, 8, 8))
	if err != nil {
		fmt.Println(err)
		return
	}
	scores, err := blaze.As[float32](response.Output(0))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("the probability that it is a one: %.2f\n", scores.Data[1])
	// Output: the probability that it is a one: 1.00
}

func ExampleModel_SubmitAll() {
	engine, err := blaze.New(`{"models": [{"name": "m", "backend": "mock", "mock": {"inputs": [{"name": "x", "shape": ["rows", 1]}]}}]}`)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer engine.Close()
	model, err := engine.Model("m")
	if err != nil {
		fmt.Println(err)
		return
	}
	requests := make([]blaze.Request, 3)
	for i := range requests {
		requests[i].Inputs = []blaze.Value{blaze.NewTensor([]float32{float32(i)}, 1, 1)}
	}
	futures, err := model.SubmitAll(context.Background(), requests) // one call of C for all
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, future := range futures {
		response, err := future.Result()
		if errors.Is(err, blaze.ErrQueueFull) {
			fmt.Println("try again later")
			continue
		} else if err != nil {
			fmt.Println(err)
			return
		}
		scores, _ := blaze.As[float32](response.Output(0))
		fmt.Println(scores.Data[0])
	}
	// Output:
	// 1
	// 3
	// 5
}
