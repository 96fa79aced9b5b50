global using unsafe Handler = delegate*<Bunraku.Processor.X86.Processor, Bunraku.Processor.X86.ProcessorState*, Bunraku.Processor.X86.Insn*, Bunraku.Processor.X86.Insn*>;
