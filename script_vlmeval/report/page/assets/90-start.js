showTables();
showAtlas();
