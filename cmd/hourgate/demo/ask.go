package demo

import (
	"context"
	"errors"
	"strings"
)

const demoCarol = "carol@example.com" // decides

// showAsking is the other way to a grant: Bob asks for one where he was refused, Carol decides, and it ends when he says
// so.
func (d *demo) showAsking(ctx context.Context) error {
	for _, step := range []func(context.Context) error{d.showRequest, d.showApproval, d.showLetIn, d.showExtension, d.showOwnEnd} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) showRequest(ctx context.Context) error {
	d.out.step("The refusal says what to type. Bob asks, in database hourgate, with the same psql")
	got, err := d.psql(ctx, demoCall{user: demoBob, database: "hourgate", options: "-x", statements: []string{
		"REQUEST READ_WRITE ON orders-prod FOR '1 hour' REASON 'INC-4211: charged twice'",
	}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob's request was not filed", "| pending\n", "decided by "+demoCarol); err != nil {
		return err
	}
	d.out.sure("filed, and nothing given: somebody else decides")
	return nil
}

func (d *demo) showApproval(ctx context.Context) error {
	d.out.step("Carol decides in psql, too. What Bob thinks of his own request does not count")
	got, err := d.psql(ctx, demoCall{user: demoBob, database: "hourgate", statements: []string{"APPROVE 1"}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob could approve", "ERROR:  nobody decides their own request"); err != nil {
		return err
	}
	if got, err = d.psql(ctx, demoCall{user: demoCarol, database: "hourgate", options: "-x", statements: []string{"APPROVE 1 FOR '30 minutes'"}}); err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Carol could not approve", "| active\n", "| 30 minutes\n"); err != nil {
		return err
	}
	d.out.sure("approved, for less than was asked for; the clock starts now")
	return nil
}

func (d *demo) showLetIn(ctx context.Context) error {
	d.out.step("Bob is in, and mends the order")
	got, err := d.psql(ctx, demoCall{user: demoBob, statements: []string{
		"UPDATE orders SET status = 'refunded' WHERE id = 1009 RETURNING id, status",
	}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob can't write", "1009 | refunded", "UPDATE 1"); err != nil {
		return err
	}
	d.out.sure("under a role of his own, with what was granted")
	return nil
}

func (d *demo) showExtension(ctx context.Context) error {
	d.out.step("He asks for more time, which this flow lets him have once without a decision")
	got, err := d.psql(ctx, demoCall{user: demoBob, database: "hourgate", options: "-x", statements: []string{"EXTEND 1 FOR '10 minutes'"}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob's access was not extended", "| active\n"); err != nil {
		return err
	}
	if got, err = d.psql(ctx, demoCall{user: demoBob, database: "hourgate", statements: []string{"EXTEND 1 FOR '10 minutes'"}}); err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob was extended twice", "ERROR:  the extensions that flow support-orders allows (1) have been used"); err != nil {
		return err
	}
	d.out.sure("once, and not twice; sessions would have gone on")
	return nil
}

func (d *demo) showOwnEnd(ctx context.Context) error {
	d.out.step("He is done, says so, and stays outside")
	got, err := d.psql(ctx, demoCall{user: demoBob, database: "hourgate", options: "-x", statements: []string{"END 1"}})
	if err != nil {
		return err
	}
	if err := lacks(got.text.String(), "Bob could not end his access", "| ended (ended by owner)\n"); err != nil {
		return err
	}
	if got, err = d.psql(ctx, demoCall{user: demoBob, statements: []string{"SELECT 1"}}); err != nil {
		return err
	}
	if !strings.Contains(got.text.String(), "FATAL:  ") {
		return errors.New("Bob is let in after he has ended his access") //nolint:staticcheck // a name begins the sentence
	}
	d.out.sure("access that nobody needs any more is gone")
	return nil
}
