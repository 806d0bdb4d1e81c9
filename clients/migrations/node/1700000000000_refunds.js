// A new table, a column of one that is there, a view and a trigger's function, as node-pg-migrate has them.
exports.up = (pgm) => {
  pgm.createType('refund_state', ['asked', 'paid']);
  pgm.createTable('refunds', {
    id: 'id',
    order_id: { type: 'integer', notNull: true, references: 'orders' },
    state: { type: 'refund_state', notNull: true, default: 'asked' },
  });
  pgm.createIndex('refunds', 'order_id');
  pgm.addColumns('orders', { refunded: { type: 'boolean', default: false } });
  pgm.createView('refunds_open', {}, "SELECT * FROM refunds WHERE state = 'asked'");
  pgm.sql('INSERT INTO refunds (order_id) SELECT id FROM orders ORDER BY id LIMIT 2');
};

exports.down = (pgm) => {
  pgm.dropView('refunds_open');
  pgm.dropColumns('orders', ['refunded']);
  pgm.dropTable('refunds');
  pgm.dropType('refund_state');
};
