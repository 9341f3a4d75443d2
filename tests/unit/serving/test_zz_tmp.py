import time
from tests.independent.speculative import *
from lib.draft.heads import HeadSpec
AUX_LAYERS=(1,2,3)
def test_x(target, prompts, serving_prompts, make_head):
    for spec, n in ((HeadSpec("eagle3",1,AUX_LAYERS,3),60),(HeadSpec("eagle3",1,AUX_LAYERS,3),0),(HeadSpec("dflash",2,AUX_LAYERS,3,block_size=4),60)):
        t=time.time(); h=make_head(spec,n); t1=time.time(); c=speculate_greedily(target,h,serving_prompts,40,3); print(spec.method,n,t1-t,time.time()-t1,c,c.acceptance_length)
    t=time.time(); c=speculate_on_itself(target,serving_prompts,40,3,0); print("self",time.time()-t,c,c.acceptance_length)
