-- A database in a file: inserts, indices, joins, aggregates.
pragma journal_mode = memory;
create table person(id integer primary key, name text, city integer);
create table sale(id integer primary key, person integer, amount integer, day integer);
begin;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) insert into person select i, printf('name-%06d', i * 7919 % 1000003), i * 31 % 97 from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 120000) insert into sale select i, i * 7877 % 20000 + 1, i * 104729 % 9973, i % 365 from n;
commit;
create index sale_person on sale(person, day);
create index person_city on person(city);
select city, count(*), sum(amount) from person join sale on sale.person = person.id group by city order by 3 desc, 1 limit 12;
select day, max(amount), min(name) from sale join person on person.id = sale.person where name like 'name-00%' group by day order by day limit 12;
update sale set amount = amount + 1 where person in (select id from person where city = 13);
delete from sale where day = 7;
select count(*), sum(amount) from sale;
