from dipline.cli import main

main()
